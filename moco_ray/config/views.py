"""The two views of an image: what MoCo v1, v2, v3, SimCLR and the CIFAR demo draw."""

from __future__ import annotations

from dataclasses import dataclass

from moco_ray.config.types import take_own_values


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """Augmentation of the two views of an image; probabilities are per view."""

    crop_px: int = 224
    """Side of a view after RandomResizedCrop, in pixels."""
    crop_min: float = 0.2
    """Smallest share of the image's area that a crop covers; the largest is 1. MoCo: 0.2; v3's ViT: 0.08."""
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    """Strength of brightness, contrast, saturation and hue, as in torchvision's ColorJitter."""
    jitter_p: float = 0.8
    """Probability of the colour jitter."""
    grayscale_p: float = 0.2
    """Probability of turning a view grey."""
    grayscale_first: bool = False
    """Grey before the jitter (v1) and not after it (v2)."""
    blur_p: tuple[float, float] = (0.5, 0.5)
    """Probability of a Gaussian blur, in view 1 and view 2."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation, in pixels of the view."""
    solarize_p: tuple[float, float] = (0.0, 0.0)
    """Probability of inverting pixels of 128 and more, in view 1 and view 2 (v3: 0 and 0.2)."""
    flip_p: float = 0.5
    """Probability of a horizontal flip."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green and blue in [0, 1], subtracted on the accelerator. ImageNet's."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of red, green and blue in [0, 1], divided by on the accelerator. ImageNet's."""

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: If a size, a probability or a range is impossible.
        """
        take_own_values(self, "views")
        if self.crop_px < 1:
            raise ValueError(f"views.crop-px is {self.crop_px}; use at least 1, normally 224")
        if not 0 < self.crop_min <= 1:
            raise ValueError(f"views.crop-min is {self.crop_min}; it is a share of the area, in (0, 1]")
        for name in ("jitter_p", "grayscale_p", "flip_p", "blur_p", "solarize_p"):
            value = getattr(self, name)
            if not all(0 <= chance <= 1 for chance in (value if isinstance(value, tuple) else [value])):
                raise ValueError(f"views.{name.replace('_', '-')} is {value}; a probability lies in [0, 1]")
        if min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise ValueError(f"views.jitter is {self.jitter}; use strengths >= 0, and a hue of at most 0.5")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ValueError(f"views.blur-sigma is {self.blur_sigma}; use a range above 0, such as 0.1 2.0")
        if not all(0 <= value <= 1 for value in self.mean):
            raise ValueError(f"views.mean is {self.mean}; use values in [0, 1], those of 0 to 255 divided by 255")
        if not all(0 < value <= 1 for value in self.std):
            raise ValueError(f"views.std is {self.std}; use values above 0, up to 1, those of 0 to 255 divided by 255")


def v1_views(crop_px: int = 224) -> ViewsConfig:
    """Return the views of MoCo v1 (He et al. 2020, arXiv:1911.05722): grey first, always jittered, no blur."""
    return ViewsConfig(
        crop_px=crop_px, jitter=(0.4, 0.4, 0.4, 0.4), jitter_p=1.0, grayscale_first=True, blur_p=(0.0, 0.0)
    )


def v2_views(crop_px: int = 224) -> ViewsConfig:
    """Return the views of MoCo v2 (Chen et al. 2020, arXiv:2003.04297): SimCLR's with a milder jitter."""
    return ViewsConfig(crop_px=crop_px)


def v3_views(crop_px: int = 224, crop_min: float = 0.2) -> ViewsConfig:
    """Return the views of MoCo v3 (Chen et al. 2021, arXiv:2104.02057): BYOL's two, one blurred, one solarized."""
    return ViewsConfig(
        crop_px=crop_px, crop_min=crop_min, jitter=(0.4, 0.4, 0.2, 0.1), blur_p=(1.0, 0.1), solarize_p=(0.0, 0.2)
    )


def simclr_views(crop_px: int = 224) -> ViewsConfig:
    """Return the views of SimCLR (Chen et al. 2020, arXiv:2002.05709, Appendix A) with colours at strength 1."""
    return ViewsConfig(crop_px=crop_px, crop_min=0.08, jitter=(0.8, 0.8, 0.8, 0.2))


def cifar_views() -> ViewsConfig:
    """Return the views of the MoCo authors' CIFAR-10 demo: 32 px crops of 0.08 and up, no blur."""
    return ViewsConfig(
        crop_px=32,
        crop_min=0.08,
        jitter=(0.4, 0.4, 0.4, 0.1),
        blur_p=(0.0, 0.0),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    )
