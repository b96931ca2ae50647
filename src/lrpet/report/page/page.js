"use strict";
(() => {
  const part = (root, name) => root.querySelector(`[data-part="${name}"]`);

  // Theme: as the system, light, or dark. A page opened from a file may be denied a memory.
  const theme = document.getElementById("theme");
  const remembered = (value) => {
    try {
      if (value === undefined) return localStorage.getItem("lrpet-theme") || "";
      localStorage.setItem("lrpet-theme", value);
    } catch { /* not remembered */ }
    return "";
  };
  const paint = () => {
    if (theme.value) document.documentElement.dataset.theme = theme.value;
    else delete document.documentElement.dataset.theme;
  };
  theme.value = remembered();
  if (theme.selectedIndex < 0) theme.value = "";
  paint();
  theme.addEventListener("change", () => { paint(); remembered(theme.value); });

  // Singular values: a layer, a moment, and playing through all moments.
  for (const figure of document.querySelectorAll("figure[id^='folding-']")) {
    const data = JSON.parse(part(figure, "data").textContent);
    const layer = part(figure, "layer"), moment = part(figure, "moment"), play = part(figure, "play");
    const svg = figure.querySelector("svg"), cut = part(svg, "cut"), rank = part(svg, "rank");
    const ticks = [...svg.querySelectorAll("text.tick[text-anchor='middle']")];
    const draw = () => {
      const chosen = data.layers[layer.value], number = Number(moment.value);
      const points = (curve) => chosen.x.map((x, i) => `${x},${curve[i]}`).join(" ");
      part(svg, "start").setAttribute("points", points(chosen.y[0]));
      part(svg, "now").setAttribute("points", points(chosen.y[number]));
      const at = chosen.cut ?? -99;
      cut.setAttribute("x1", at);
      cut.setAttribute("x2", at);
      const late = at > 250;
      rank.textContent = chosen.rank === null ? "stays dense" : `rank ${chosen.rank} of ${chosen.full}`;
      rank.setAttribute("x", chosen.rank === null ? 250 : late ? at - 5 : at + 5);
      rank.setAttribute("text-anchor", late ? "end" : "start");
      ticks.forEach((tick, i) => { tick.textContent = Math.round(chosen.full * i / (ticks.length - 1)); });
      const words = data.moments[number];
      part(figure, "words").textContent = words;
      part(figure, "name").textContent = layer.selectedOptions[0].text;
      moment.setAttribute("aria-valuetext", words);
      svg.setAttribute("aria-label", `Singular values of ${layer.selectedOptions[0].text} at ${words}, and at the beginning.`);
    };
    let timer = 0;
    const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; };
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (moment.value === moment.max) moment.value = 0;
      draw();
      play.textContent = "Stop";
      timer = setInterval(() => {
        moment.value = Number(moment.value) + 1;
        draw();
        if (moment.value === moment.max) stop();
      }, 700);
    });
    layer.addEventListener("change", draw);
    moment.addEventListener("input", () => { stop(); draw(); });
    draw();
  }

  // Tables of layers: sorted by a click on a heading, and filtered by words.
  for (const box of document.querySelectorAll("[data-table]")) {
    const body = box.querySelector("tbody"), rows = [...body.rows], heads = [...box.querySelectorAll("thead th")];
    const value = (row, i) => {
      const cell = row.cells[i], text = cell.dataset.value ?? cell.textContent;
      return heads[i].classList.contains("number") ? Number(text) : text;
    };
    heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const order = (a, b) => typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
      rows.sort((a, b) => (down ? -1 : 1) * order(value(a, i), value(b, i)));
      body.append(...rows);
    }));
    const filter = part(box, "filter"), found = part(box, "found");
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase();
      let shown = 0;
      for (const row of rows) {
        row.hidden = !row.textContent.toLowerCase().includes(words);
        shown += !row.hidden;
      }
      found.textContent = shown === rows.length ? `${shown} layers` : `${shown} of ${rows.length} layers`;
    });
  }
})();
