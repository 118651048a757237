"""timm's test_resnet in plain torch: the network of demos and tests, without the seconds that timm takes to import."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


class TinyResNet(nn.Module):
    """Images (N, 3, H, W) -> features (N, 96): 0.4 million weights, with timm's names, function and first weights.

    A stem of three convolutions (He et al. 2019, arXiv:1812.01187, "ResNet-C"), four stages of one residual block, and
    average pooling; shortcuts pool before they project ("ResNet-D"). Weights come from torch's global generator.
    """

    num_features = 96

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            *(_conv(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(inplace=True)),
            *(_conv(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(inplace=True)),
            _conv(16, 32, 3),
        )
        self.bn1 = nn.BatchNorm2d(32)
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = nn.Sequential(_Block([32, 32, 32], [3, 3], stride=1))
        self.layer2 = nn.Sequential(_Block([32, 48, 48], [3, 3], stride=2))
        self.layer3 = nn.Sequential(_Block([48, 48, 48, 192], [1, 3, 1], stride=2))
        self.layer4 = nn.Sequential(_Block([192, 96, 96], [3, 3], stride=2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # where torch would import its compiler
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to features (N, 96)."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(images))))
        return cast(Tensor, self.avgpool(self.layer4(self.layer3(self.layer2(self.layer1(x))))).flatten(1))


class _Block(nn.Module):
    """Two or three convolutions beside a shortcut. The last BatchNorm starts at zero: the block does nothing at first."""

    def __init__(self, widths: list[int], kernels: list[int], *, stride: int) -> None:
        super().__init__()
        shortcut = _shortcut(widths[0], widths[-1], stride) if stride > 1 else None  # timm draws its weights first
        self.num_convolutions = len(kernels)
        for i, kernel in enumerate(kernels):
            is_strided = kernel == 3 and 3 not in kernels[:i]
            self.add_module(f"conv{i + 1}", _conv(widths[i], widths[i + 1], kernel, stride=stride if is_strided else 1))
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
            self.add_module(f"act{i + 1}", nn.ReLU(inplace=True))
        self.downsample = shortcut
        nn.init.zeros_(cast(Tensor, self.get_submodule(f"bn{len(kernels)}").weight))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.num_convolutions + 1):
            x = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x))
            x = self.get_submodule(f"act{i}")(x if i < self.num_convolutions else x + shortcut)
        return x


def _conv(num_in: int, num_out: int, kernel: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(num_in, num_out, kernel, stride=stride, padding=kernel // 2, bias=False)


def _shortcut(num_in: int, num_out: int, stride: int) -> nn.Sequential:
    pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(pool, _conv(num_in, num_out, 1), nn.BatchNorm2d(num_out))
