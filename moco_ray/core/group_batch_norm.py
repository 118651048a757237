"""BatchNorm over fixed groups of images, so that statistics do not depend on how many workers share a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco_ray.core import collectives


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
    pending_mean: Tensor
    pending_var: Tensor

    @classmethod
    def like(cls, norm: nn.modules.batchnorm._BatchNorm, group_size: int) -> GroupBatchNorm:
        """Take over the parameters (the same objects, frozen or not) and buffers of a BatchNorm1d or 2d."""
        assert norm.track_running_stats and norm.momentum is not None
        new = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum, affine=norm.affine)
        take_over(new, norm)
        new.group_size, new.pending_groups = group_size, 0
        new.register_buffer("pending_mean", torch.zeros_like(new.running_mean), persistent=False)  # type: ignore[arg-type]
        new.register_buffer("pending_var", torch.zeros_like(new.running_var), persistent=False)  # type: ignore[arg-type]
        return new

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, H, W) or (N, C); in training N must be a multiple of group_size."""
        if not self.training:
            return super().forward(input)
        groups = input.split(self.group_size)
        assert len(groups[-1]) == self.group_size, f"{len(input)} images do not fill groups of {self.group_size}"
        outputs = [self._normalize_group(group) for group in groups]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _normalize_group(self, group: Tensor) -> Tensor:
        mean, var = torch.zeros_like(self.pending_mean), torch.zeros_like(self.pending_var)
        # With momentum 1 batch_norm leaves the group's own statistics in the buffers it is given.
        output = F.batch_norm(group, mean, var, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
        self.pending_mean += mean
        self.pending_var += var
        self.pending_groups += 1
        return output

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # (N, C) of a head as well as (N, C, H, W)

    def discard_pending(self) -> None:
        """Forget the statistics gathered since the last commit, for a forward pass that is done again."""
        self.pending_mean.zero_()
        self.pending_var.zero_()
        self.pending_groups = 0

    def commit_pending(self, num_groups: int, own_groups: int) -> None:
        """Move the running statistics by this rank's share of one step.

        Args:
            num_groups: Groups in the global batch (G).
            own_groups: Those of this rank; several times as many went through where both views do.
        """
        assert self.momentum is not None
        num_passes = self.pending_groups // own_groups
        if num_passes == 0:
            return
        for running, pending in (
            (self.running_mean, self.pending_mean),
            (self.running_var, self.pending_var),
        ):
            assert running is not None
            running.mul_(1 - self.momentum).add_(pending, alpha=self.momentum / (num_groups * num_passes))
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.discard_pending()


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
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.zero_()
        norm.running_var.zero_()


def merged_running_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Sum the ranks' shares of the running statistics. All ranks must call.

    Returns:
        state-dict key -> full statistics, for every GroupBatchNorm inside; the shares stay as they are.
    """
    named = [(name, norm) for name, norm in module.named_modules() if isinstance(norm, GroupBatchNorm)]
    if not named:
        return {}
    shares = [s for _, norm in named for s in (norm.running_mean, norm.running_var)]
    sizes = [len(s) for s in shares]  # type: ignore[arg-type]
    merged = collectives.all_reduce_sum(torch.cat(shares)).split(sizes)  # type: ignore[arg-type]
    keys = [f"{name}.{stat}".lstrip(".") for name, _ in named for stat in ("running_mean", "running_var")]
    return {key: value.clone() for key, value in zip(keys, merged, strict=True)}
