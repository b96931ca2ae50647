"""VGG-16 with batch norm for 32×32 images."""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """Thirteen 3×3 convolutions with batch norm, and the classifier of the pruning literature: 512 → 512 → classes.

    This is the network of Simonyan and Zisserman, 2015, in the form used for CIFAR-10. At 32×32 and 10 classes, the
    convolutions and this classifier have 14.98 M weights, which is the published figure, and 313.46 M multiply-adds. With
    one addition for each output of a convolution these are 313.74 M, where 313.73 M is published. A single 512 → classes
    layer would give 14.72 M and 313.20 M.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, stage in enumerate(WIDTHS):
            if i:
                layers.append(nn.MaxPool2d(2))
            for width in stage:
                layers += [nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                in_channels = width
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Sequential(
            nn.Linear(512, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, num_classes)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (batch, in_channels, h, w), with sides of at least 16, to logits (batch, num_classes)."""
        if min(x.shape[-2:]) < 16:
            raise ValueError(
                f"vgg16_bn halves its images four times, so their sides must be at least 16; got {tuple(x.shape[-2:])}"
            )
        logits: Tensor = self.classifier(self.features(x))
        return logits
