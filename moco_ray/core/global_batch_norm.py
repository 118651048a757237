"""BatchNorm over the whole global batch, whatever number of workers shares it: v3's and SimCLR's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moco_ray.core import collectives
from moco_ray.core.group_batch_norm import GroupBatchNorm, is_plain_batch_norm, is_timm_batch_norm, take_over


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm whose batch is the global batch: all ranks must call it together, each with a share of any size.

    Running statistics are the same on all ranks. Since every image changes every other, a forward pass cannot be cut
    into micro-batches. On CUDA it is torch's SyncBatchNorm without its waits: that looks which ranks hold images, and
    here all do.
    """

    @classmethod
    def like(cls, norm: nn.modules.batchnorm._BatchNorm) -> GlobalBatchNorm:
        """Take over the parameters (the same objects, frozen or not) and buffers of a BatchNorm."""
        assert norm.track_running_stats and norm.momentum is not None
        new = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum, affine=norm.affine)
        take_over(new, norm)
        return new

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, ...) over the N images of this rank and those of all others."""
        if not self.training or collectives.world_size() == 1:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        if input.is_cuda and not torch.compiler.is_compiling():  # which does not know those kernels
            with torch.no_grad():
                self.num_batches_tracked += 1
            return _GlobalNormalizeOnCuda.apply(  # type: ignore[no-any-return, no-untyped-call]
                input, self.weight, self.bias, self.running_mean, self.running_var, self.momentum, self.eps
            )
        x = input if input.dtype == torch.float64 else input.float()  # statistics of bfloat16 would be coarse
        output, mean, var, count = _GlobalNormalize.apply(x, self.eps)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        if not self.affine:
            return output.to(input.dtype)  # type: ignore[no-any-return]
        shape = (1, -1, *[1] * (input.dim() - 2))
        return (output * self.weight.view(shape) + self.bias.view(shape)).to(input.dtype)  # type: ignore[no-any-return]

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # (N, C) of a head as well as (N, C, H, W)


class _GlobalNormalize(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps), mean and (biased) variance of each channel over all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        count = x.numel() // x.shape[1]
        own = torch.cat([x.mean(dim=axes), x.var(dim=axes, unbiased=False), x.new_full((1,), count)])
        parts = torch.stack(collectives.all_gather_rows(own[None], [1] * collectives.world_size())).squeeze(1)
        means, variances, counts = parts[:, : x.shape[1]], parts[:, x.shape[1] : -1], parts[:, -1:]
        total = counts.sum()
        mean = (counts * means).sum(dim=0) / total  # (C,)
        var = (counts * (variances + (means - mean) ** 2)).sum(dim=0) / total
        scale = torch.rsqrt(var + eps)
        output = (x - mean.view(shape)) * scale.view(shape)
        ctx.save_for_backward(output, scale, total)
        ctx.axes, ctx.shape = axes, shape
        ctx.mark_non_differentiable(mean, var, total)
        return output, mean, var, total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        output, scale, total = ctx.saved_tensors
        own = torch.stack([gradient.sum(dim=ctx.axes), (gradient * output).sum(dim=ctx.axes)])
        mean, along = collectives.all_reduce_sum(own) / total  # (C,) each
        centred = gradient - mean.view(ctx.shape) - output * along.view(ctx.shape)
        return centred * scale.view(ctx.shape), None


class _GlobalNormalizeOnCuda(torch.autograd.Function):
    """The same and weight and bias, by the kernels of torch's SyncBatchNorm, with nothing that the host waits for."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        x = _dense(x)
        own_mean, own_scale = torch.batch_norm_stats(x, eps)  # (C,) each
        count = torch.full((1,), x.numel() // x.shape[1], dtype=own_mean.dtype, device=x.device)
        own = torch.cat([own_mean, own_scale, count])
        parts = torch.cat(collectives.all_gather_rows(own[None], [1] * collectives.world_size()))
        means, scales, counts = parts.split([len(own_mean), len(own_mean), 1], dim=1)
        mean, scale = torch.batch_norm_gather_stats_with_counts(
            x,
            means.contiguous(),
            scales.contiguous(),
            running_mean,
            running_var,
            momentum,
            eps,
            counts.flatten(),
        )
        ctx.save_for_backward(x, weight, mean, scale, counts.to(torch.int32))
        return torch.batch_norm_elemt(x, weight, bias, mean, scale, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, counts = ctx.saved_tensors
        gradient = _dense(gradients[0])
        sums, along, of_weight, of_bias = torch.batch_norm_backward_reduce(
            gradient, x, mean, scale, weight, True, weight is not None, weight is not None
        )
        sums, along = collectives.all_reduce_sum(torch.stack([sums, along]))
        of_x = torch.batch_norm_backward_elemt(gradient, x, mean, scale, weight, sums, along, counts)
        return of_x, *((None, None) if weight is None else (of_weight, of_bias)), *[None] * 4


def _dense(x: Tensor) -> Tensor:
    """The same values in a layout that the kernels know."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


class _GlobalBatchNormAct(GlobalBatchNorm):
    """GlobalBatchNorm followed by dropout and an activation, in the place of timm's BatchNormAct2d."""

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))  # type: ignore[no-any-return, operator]


def use_global_batch_norm(module: nn.Module) -> None:
    """Replace every BatchNorm inside a module by a GlobalBatchNorm, in place."""
    for name, child in module.named_children():
        if is_plain_batch_norm(child):
            setattr(module, name, GlobalBatchNorm.like(child))  # type: ignore[arg-type]
        elif is_timm_batch_norm(child):
            new = _GlobalBatchNormAct.like(child)  # type: ignore[arg-type]
            new.drop, new.act = child.drop, child.act
            setattr(module, name, new)
        else:
            use_global_batch_norm(child)


def has_global_batch_norm(module: nn.Module) -> bool:
    """Whether a forward pass needs the whole global batch at once."""
    return any(isinstance(child, GlobalBatchNorm) for child in module.modules())


def check_batch_norms(module: nn.Module, name: str) -> None:
    """Check that no layer is left whose statistics are over what one worker happens to hold.

    Raises:
        ValueError: There is one.
    """
    ours = (GroupBatchNorm, GlobalBatchNorm)
    left = {
        type(child).__name__
        for child in module.modules()
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, ours)
    }
    if left:
        raise ValueError(
            f"{name} has {', '.join(sorted(left))} layers, whose statistics would depend on the number of workers; "
            "use a network with BatchNorm1d or BatchNorm2d, or without BatchNorm"
        )
