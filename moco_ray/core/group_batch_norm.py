"""BatchNorm over fixed groups of images, so that statistics do not depend on how many workers share a batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco_ray.core import collectives
from moco_ray.core.out_of_memory import ran_out_of_memory

_batch_norm_into = torch.ops.aten.native_batch_norm.out
_batch_norm_backward = torch.ops.aten.native_batch_norm_backward


class GroupBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose batch statistics are taken over consecutive groups of `group_size` images.

    The paper's BatchNorm sees the images of one GPU. Here a group plays the part of that GPU: image i of the
    input belongs to group i // group_size, wherever it is computed. With one group it is plain BatchNorm.

    Running statistics move once a step: running <- .9 running + .1 mean over all groups that went through it of
    (group mean, unbiased group variance). That is linear, so each rank keeps a *share* from its own groups, and
    the shares of all ranks add up to the statistics (`merged_running_statistics`).
    Differs: the reference keeps those of rank 0's GPU, which would depend on the number of workers.

    State-dict keys are BatchNorm's.
    """

    group_size: int
    pending_groups: int
    """How many groups went through since the last commit; -1: some, in compiled code, as many as `pending_seen` says."""
    pending_seen: Tensor
    """The same, (1,), counted on the device: a Python number would have code compiled anew for each value."""
    pending_mean: Tensor
    """Mean over those of their means, (C,)."""
    pending_var: Tensor
    """Mean over those of their unbiased variances, (C,)."""

    @classmethod
    def like(cls, norm: nn.modules.batchnorm._BatchNorm, group_size: int) -> GroupBatchNorm:
        """Take over the parameters (the same objects, frozen or not) and buffers of a BatchNorm1d or 2d."""
        assert norm.running_mean is not None and norm.momentum is not None
        new = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum, affine=norm.affine)
        take_over(new, norm)
        new.group_size, new.pending_groups = group_size, 0
        zeros = norm.running_mean.new_zeros  # zeros_like would import sympy where tensors are without values
        new.register_buffer("pending_seen", zeros(1), persistent=False)
        new.register_buffer("pending_mean", zeros(norm.num_features), persistent=False)
        new.register_buffer("pending_var", zeros(norm.num_features), persistent=False)
        return new

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, H, W) or (N, C); in training N must be a multiple of group_size."""
        if not self.training:
            return super().forward(input)
        num_groups, rest = divmod(len(input), self.group_size)
        assert not rest, f"{len(input)} images do not fill groups of {self.group_size}"
        if torch.compiler.is_compiling():
            return self._forward_compiled(input, num_groups)
        seen, self.pending_groups = self.pending_groups, self.pending_groups + num_groups
        assert seen >= 0, "some groups of this step have gone through compiled code, and these do not"
        mean, var = self.pending_mean, self.pending_var
        if num_groups == 1:
            weight, bias = self.weight, self.bias
            return F.batch_norm(input, mean, var, weight, bias, training=True, momentum=1 / (seen + 1), eps=self.eps)
        normalize = _normalizer(input)
        return normalize.apply(input, self.weight, self.bias, mean, var, seen, self.group_size, self.eps)  # type: ignore[no-any-return]

    def _forward_compiled(self, input: Tensor, num_groups: int) -> Tensor:
        """The same as one expression over all groups, which a compiler joins with what comes before and after it."""
        self.pending_groups = -1
        dtype = self.pending_mean.dtype
        x = input.to(dtype).unflatten(0, (num_groups, self.group_size))  # (G, g, C, ...)
        axes = [1, *range(3, x.dim())]
        var, mean = torch.var_mean(x, dim=axes, correction=0, keepdim=True)
        output = (x - mean) * torch.rsqrt(var + self.eps)
        if self.affine:
            shape = (-1, *[1] * (x.dim() - 3))
            output = output * self.weight.view(shape) + self.bias.view(shape)
        with torch.no_grad():
            count = x[0, :, 0].numel()
            share = num_groups / (self.pending_seen + num_groups)
            for pending, new in ((self.pending_mean, mean), (self.pending_var, var * (count / (count - 1)))):
                pending.lerp_(new.detach().flatten(1).mean(dim=0), share)
            self.pending_seen.add_(num_groups)
        return cast(Tensor, output.flatten(0, 1).to(input.dtype))

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # (N, C) of a head as well as (N, C, H, W)

    def running(self) -> tuple[Tensor, Tensor]:
        """Running mean and variance, (C,) each: this rank's share of them."""
        assert self.running_mean is not None and self.running_var is not None
        return self.running_mean, self.running_var

    def discard_pending(self) -> None:
        """Forget the statistics gathered since the last commit, for a forward pass that is done again."""
        self.pending_mean.zero_()  # or what was not finite in it would stay
        self.pending_var.zero_()
        self.pending_seen.zero_()
        self.pending_groups = 0


def _normalizer(x: Tensor) -> type[torch.autograd.Function]:
    """What normalises several groups of x fastest."""
    layout = torch.channels_last if x.dim() == 4 else torch.contiguous_format
    if x.is_cuda and x.is_contiguous(memory_format=layout) and (kernels := _kernels()) is not None:
        return kernels
    return _GroupNormalize


@cache
def _kernels() -> type[torch.autograd.Function] | None:
    """Kernels of our own, if Triton can compile them here."""
    try:
        from moco_ray.core.group_normalize import GroupNormalize

        with torch.enable_grad():
            weight, bias, mean, var = torch.ones(4, 8, device="cuda", requires_grad=True).unbind()
            x = torch.zeros(4, 8, 2, 2, device="cuda").contiguous(memory_format=torch.channels_last)
            y = GroupNormalize.apply(x, weight, bias, mean.detach(), var.detach(), 0, 2, 1e-5)  # type: ignore[no-untyped-call]
            y.sum().backward()
    except Exception as error:  # whatever a compiler that is missing or does not know the GPU raises
        if ran_out_of_memory(error):
            raise
        warnings.warn(f"several BatchNorm groups on a GPU take longer here, without Triton: {error}", stacklevel=2)
        return None
    return GroupNormalize


class _GroupNormalize(torch.autograd.Function):
    """BatchNorm of each of several groups, written into one output."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        seen: int,
        group_size: int,
        eps: float,
    ) -> Tensor:
        """Of x (G g, C, ...); mean and var (C,) become those over the groups seen before and these."""
        output = torch.empty_like(x)
        saved = mean.new_empty(len(x) // group_size, 2, len(mean))
        groups = zip(x.split(group_size), output.split(group_size), saved.unbind(), strict=True)
        for j, (group, out, (own_mean, scale)) in enumerate(groups):
            _batch_norm_into(
                group,
                weight,
                bias,
                mean,
                var,
                True,
                1 / (seen + j + 1),
                eps,
                out=out,
                save_mean=own_mean,
                save_invstd=scale,
            )
        ctx.save_for_backward(x, weight, saved)
        ctx.group_size, ctx.eps = group_size, eps
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, saved = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        groups = zip(gradients[0].split(ctx.group_size), x.split(ctx.group_size), saved.unbind(), strict=True)
        of_x, of_weight, of_bias = zip(
            *(
                _batch_norm_backward(gradient, group, weight, None, None, own_mean, scale, True, ctx.eps, needed)
                for gradient, group, (own_mean, scale) in groups
            ),
            strict=True,
        )
        sums = [
            torch.stack(parts).sum(dim=0) if is_needed else None
            for parts, is_needed in ((of_weight, needed[1]), (of_bias, needed[2]))
        ]
        return torch.cat(of_x) if needed[0] else None, *sums, *[None] * 5


def commit_running_statistics(norms: Iterable[GroupBatchNorm], num_groups: int, own_groups: int) -> None:
    """Move the running statistics by this rank's share of one step, of the norms that saw any of it.

    Args:
        norms: All of a method.
        num_groups: Groups in the global batch (G).
        own_groups: Those of this rank; several times as many went through where both views do.
    """
    by_momentum: dict[float, list[GroupBatchNorm]] = {}
    counters = []
    for norm in norms:
        if norm.pending_groups:
            assert norm.momentum is not None
            by_momentum.setdefault(norm.momentum, []).append(norm)
            counters += [norm.pending_seen] if norm.pending_groups < 0 else []
            norm.pending_groups = 0
    if counters:
        torch._foreach_zero_(counters)
    for momentum, moved in by_momentum.items():
        running = [stat for norm in moved for stat in norm.running()]
        pending = [stat for norm in moved for stat in (norm.pending_mean, norm.pending_var)]
        torch._foreach_mul_(running, 1 - momentum)
        torch._foreach_add_(running, pending, alpha=momentum * own_groups / num_groups)
        torch._foreach_add_([cast(Tensor, norm.num_batches_tracked) for norm in moved], 1)


def use_group_batch_norm(module: nn.Module, group_size: int) -> None:
    """Replace every BatchNorm inside a module by a GroupBatchNorm, in place."""
    for name, child in module.named_children():
        if isinstance(child, GroupBatchNorm):
            child.group_size = group_size
        elif is_plain_batch_norm(child) or is_timm_batch_norm(child):
            setattr(module, name, _replacement(child, group_size))
        else:
            use_group_batch_norm(child, group_size)


def take_over(new: nn.modules.batchnorm._BatchNorm, norm: nn.modules.batchnorm._BatchNorm) -> None:
    """Give one BatchNorm the parameters (the same objects, frozen or not), buffers and mode of another."""
    new.weight, new.bias = norm.weight, norm.bias
    new.running_mean, new.running_var = norm.running_mean, norm.running_var
    new.num_batches_tracked = norm.num_batches_tracked
    new.train(norm.training)


def is_plain_batch_norm(module: nn.Module) -> bool:
    """Whether a module is torch's BatchNorm and nothing more."""
    return type(module) in (nn.BatchNorm1d, nn.BatchNorm2d)


def is_timm_batch_norm(module: nn.Module) -> bool:
    """timm's BatchNormAct2d is a BatchNorm2d followed by its own `drop` and `act`."""
    return isinstance(module, nn.BatchNorm2d) and hasattr(module, "act") and hasattr(module, "drop")


class _GroupBatchNormAct(GroupBatchNorm):
    """GroupBatchNorm followed by dropout and an activation, in the place of timm's BatchNormAct2d."""

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))  # type: ignore[no-any-return, operator]


def _replacement(norm: nn.Module, group_size: int) -> GroupBatchNorm:
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    if is_plain_batch_norm(norm):
        return GroupBatchNorm.like(norm, group_size)
    new = _GroupBatchNormAct.like(norm, group_size)
    new.drop, new.act = norm.drop, norm.act
    return new


def group_batch_norms(module: nn.Module) -> list[GroupBatchNorm]:
    """Every GroupBatchNorm inside a module."""
    return [child for child in module.modules() if isinstance(child, GroupBatchNorm)]


def has_batch_norm(module: nn.Module) -> bool:
    """Whether anything inside normalises over the batch."""
    return any(isinstance(child, nn.modules.batchnorm._BatchNorm) for child in module.modules())


def keep_running_share(module: nn.Module) -> None:
    """After loading full running statistics: keep them on rank 0, zero elsewhere, so that shares add up."""
    if collectives.rank() == 0:
        return
    for norm in group_batch_norms(module):
        for statistics in norm.running():
            statistics.zero_()


def merged_running_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Sum the ranks' shares of the running statistics. All ranks must call.

    Returns:
        state-dict key -> full statistics, for every GroupBatchNorm inside; the shares stay as they are.
    """
    named = [(name, norm) for name, norm in module.named_modules() if isinstance(norm, GroupBatchNorm)]
    if not named:
        return {}
    shares = [share for _, norm in named for share in norm.running()]
    merged = collectives.all_reduce_sum(torch.cat(shares)).split([len(share) for share in shares])
    keys = [f"{name}.{stat}".lstrip(".") for name, _ in named for stat in ("running_mean", "running_var")]
    return {key: value.clone() for key, value in zip(keys, merged, strict=True)}
