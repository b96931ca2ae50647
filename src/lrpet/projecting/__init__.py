"""The algorithm: its equations, the solvers behind them, and when and on which layers it runs."""
