"""Mixup and CutMix: images, soft labels and reference are mixed alike, at every resolution."""

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform

from nnunet_kd.config import Augmentation, CutMix, Mixup
from nnunet_kd.data.mixed_batches import without_last
from nnunet_kd.data.mixing import MixedReference, Mixing, draw_mixing, mix
from nnunet_kd.softlabels.channels import unpack
from tests.unit.test_online_trainers import batch_of, labels, trainer_of
from tests.unit.toy_dataset import make_toy

SCALES = {2: [[1, 1], [0.5, 0.5], [0.25, 0.5]], 3: [[1, 1, 1], [1, 0.5, 0.5], [0.5, 0.25, 0.25]]}
CORNERS = {2: (0.3, 0.9), 3: (0.0, 0.5, 0.99)}


def segmentations(dimensions, cases=5, seed=0):
    """Random labels (B, 1, *spatial), and the lower resolutions as nnU-Net makes them."""
    generator = torch.Generator().manual_seed(seed)
    full = torch.randint(0, 3, (cases, 1, *(16, 24, 16)[:dimensions]), generator=generator).to(torch.int16)
    return full, lower_resolutions(full, dimensions)


def lower_resolutions(full, dimensions):
    downsample = DownsampleSegForDSTransform(SCALES[dimensions])
    per_case = [downsample(segmentation=s)["segmentation"] for s in full]
    return [torch.stack(x) for x in zip(*per_case, strict=True)]


def soft_channels(full, inside):
    """Soft labels of two foreground classes and the mask (B, 3, *spatial)."""
    one_hot = torch.cat([full == c for c in range(3)], 1).float()
    soft = 0.8 * one_hot + 0.2 / 3
    return torch.cat((soft[:, 1:] * inside, inside), 1)


@pytest.mark.parametrize("corner", [None, CORNERS])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_share_of_one_is_the_identity(dimensions, corner):
    full, target = segmentations(dimensions)
    mixing = Mixing(1.0, 1, corner and corner[dimensions])
    data, mixed = mix(mixing, full.float(), target, unlabeled=2)
    assert torch.equal(data, full.float())
    first = mixed.first if corner is None else mixed
    assert all(torch.equal(a, b) for a, b in zip(first, target, strict=True))


@pytest.mark.parametrize("share", [0.05, 0.4, 0.7])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_cutmix_cuts_image_soft_labels_and_every_resolution_at_the_same_voxels(dimensions, share):
    full, target = segmentations(dimensions)
    data = torch.cat((full.float(), soft_channels(full, torch.ones_like(full))), 1)
    mixed, cut = mix(Mixing(share, 1, CORNERS[dimensions]), data, target, unlabeled=0)
    assert torch.equal(mixed[:, :1], cut[0].float())
    assert torch.equal(mixed[:, 1:], soft_channels(cut[0], torch.ones_like(full)))
    for ours, expected in zip(cut, lower_resolutions(cut[0], dimensions), strict=True):
        assert ours.dtype == torch.int16
        assert torch.equal(ours, expected)
    pasted = (mixed[:, 0] != full[:, 0]) & (mixed[:, 0] == full[:, 0].roll(2, 0))
    assert pasted.any()
    assert not torch.equal(mixed, data)


def test_the_box_has_the_share_that_was_drawn():
    marks = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 64, 64)
    for share in (0.1, 0.5, 0.9):
        mixed, _ = mix(Mixing(share, 1, (0.5, 0.2)), marks, marks, unlabeled=0)
        assert mixed[1].mean() == pytest.approx(share, abs=0.03)
        assert mixed[0].mean() == pytest.approx(1 - share, abs=0.03)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_mixup_mixes_probabilities_whose_sum_stays_one(sigmoid):
    full, target = segmentations(3)
    inside = torch.ones_like(full, dtype=torch.float32)
    inside[:, :, :3] = 0
    inside[0] = 1
    channels = soft_channels(full, inside)
    data = torch.cat((full.float(), channels), 1)
    mixed, reference = mix(Mixing(0.7, 1), data, target, unlabeled=0)
    partner = [int(x) for x in (torch.arange(5).roll(2))]
    assert torch.allclose(mixed, 0.7 * data + 0.3 * data[partner])
    assert isinstance(reference, MixedReference)
    assert torch.equal(reference.first[0], full)
    assert torch.equal(reference.second[0], full[partner])
    (probabilities,), valid = unpack(mixed[:, 1:], sigmoid)
    assert torch.equal(valid, inside > 0), "a voxel is taught where the patch that counts more has a soft label"
    if not sigmoid:
        assert torch.allclose(probabilities.sum(1, keepdim=True), valid.float(), atol=1e-6)
    both = valid & valid[partner]
    (first,), (second,) = unpack(channels, sigmoid)[0], unpack(channels[partner], sigmoid)[0]
    expected = 0.7 * first + 0.3 * second
    assert torch.allclose(probabilities * both, expected * both, atol=1e-6)


def test_labeled_and_unlabeled_cases_are_mixed_among_themselves_never_with_themselves():
    cases = torch.arange(7.0).view(7, 1, 1, 1)
    for shift in range(1, 9):
        mixed, reference = mix(Mixing(0.75, shift), cases, cases, unlabeled=3)
        partners = reference.second.flatten()
        assert (partners != cases.flatten()).all()
        assert sorted(partners[:4].tolist()) == [0, 1, 2, 3]
        assert sorted(partners[4:].tolist()) == [4, 5, 6]
        assert torch.equal(mixed.flatten(), 0.75 * cases.flatten() + 0.25 * partners)
    alone, reference = mix(Mixing(0.75, 1), cases[:2], cases[:2], unlabeled=1)
    assert torch.equal(alone, cases[:2])
    kept = without_last(1, reference)
    assert (len(kept.first), len(kept.second), kept.share) == (1, 1, 0.75)


def test_draws_follow_the_settings_and_the_seed():
    config = Augmentation(mixup=Mixup(probability=0.3), cutmix=CutMix(probability=0.5))
    np.random.seed(0)
    drawn = [draw_mixing(config, 3) for _ in range(400)]
    kinds = [None if d is None else d.corner is None for d in drawn]
    assert kinds.count(None) / 400 == pytest.approx(0.2, abs=0.06)
    assert kinds.count(True) / 400 == pytest.approx(0.3, abs=0.06)
    assert all(0.5 <= d.share <= 1 for d in drawn if d is not None and d.corner is None)
    np.random.seed(0)
    assert drawn == [draw_mixing(config, 3) for _ in range(400)]


@pytest.fixture(name="toy")
def _toy(tmp_path, monkeypatch):
    return make_toy(tmp_path, monkeypatch)


def test_the_hard_label_loss_of_mixed_patches_is_the_weighted_sum_of_two(toy):
    toy.write_plans({"augmentation": {"mixup": {"probability": 1}}}, "Mixed")
    trainer = trainer_of("Mixed", "nnUNetTrainerKDTeacher")
    trainer.initialize()
    first, second = (batch_of(x)["target"] for x in (labels(), labels().flip(0, 2)))
    with torch.no_grad():
        output = trainer.network(batch_of(labels())["data"])
        mixed = trainer.hard_label_loss(output, MixedReference(0.8, first, second))
        expected = 0.8 * trainer.loss(output, first) + 0.2 * trainer.loss(output, second)
    assert mixed == pytest.approx(float(expected), rel=1e-6)
    np.random.seed(3)
    losses = [float(trainer.train_step(batch_of(labels()))["loss"]) for _ in range(2)]
    assert np.isfinite(losses).all()


def test_patches_are_not_mixed_unless_they_are_asked_to_be(toy):
    toy.write_plans({}, "Plain")
    trainer = trainer_of("Plain", "nnUNetTrainerKDTeacher")
    trainer.initialize()
    before = np.random.get_state()[1].tolist()
    batch = batch_of(labels())
    data, target = trainer.mix_patches(batch["data"], batch["target"])
    assert data is batch["data"]
    assert target is batch["target"]
    assert np.random.get_state()[1].tolist() == before, "seeds give the trainings that they gave before"


def test_a_batch_of_one_patch_cannot_be_mixed(toy, capsys):
    toy.write_plans({"augmentation": {"cutmix": {"probability": 0.5}}}, "One", batch_size=1)
    with pytest.raises(SystemExit):
        trainer_of("One", "nnUNetTrainerKDTeacher").initialize()
    assert "mix the patches of a batch, but there is one" in capsys.readouterr().err
