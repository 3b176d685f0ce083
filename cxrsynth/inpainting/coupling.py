"""The data-dependent coupling: noise inside the region, the image itself outside."""

from torch import Tensor


def couple(image: Tensor, region: Tensor, noise: Tensor) -> Tensor:
    """Starting point of the flow, `x0 = k * x1 + r * z` with the keep-mask `k = 1 - r`.

    Albergo et al. 2023 (arXiv 2310.03725), section 4.1 (in-painting).

    Args:
        image: x1, float `[B, Z, H, W]`, Z = 1 for pixels.
        region: r in {0, 1}, `[B, 1, H, W]`; 1 = paint here.
        noise: z, standard normal `[B, Z, H, W]`.

    Returns:
        x0, `[B, Z, H, W]`; equal to `image` wherever `region` is 0.
    """
    return image.where(region == 0, noise)
