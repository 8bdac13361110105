"""Splits and batches depend on the generator and on nothing else."""

import pytest
import torch

from natsel import data


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_a_split_parts_the_training_samples(digits):
    train, validation = data.split(digits, validation=437, generator=seeded())
    assert len(train) == 1000
    assert torch.cat((train, validation)).sort().values.tolist() == list(range(1437))
    again, _ = data.split(digits, validation=437, generator=seeded())
    other, _ = data.split(digits, validation=437, generator=seeded(1))
    assert torch.equal(train, again)
    assert not torch.equal(train, other)


def test_a_split_that_leaves_nothing_is_refused(digits):
    with pytest.raises(ValueError, match="validation=5000"):
        data.split(digits, generator=seeded())


def test_an_epoch_gives_every_sample_once_with_its_label():
    inputs, labels = torch.arange(10), torch.arange(10) * 7
    epoch = list(data.batches(inputs, labels, batch_size=4, generator=seeded()))
    assert [len(x) for x, _ in epoch] == [4, 4, 2]
    assert torch.cat([x for x, _ in epoch]).sort().values.tolist() == list(range(10))
    assert all(torch.equal(x * 7, y) for x, y in epoch)


def noisy(batch, generator):
    return batch + torch.rand(len(batch), generator=generator)


def test_an_epoch_is_replayed_from_the_state_at_its_start():
    x, generator = torch.arange(10.0), seeded()
    list(data.batches(x, x, batch_size=3, generator=generator, augment=noisy))
    state = generator.get_state()
    second = list(data.batches(x, x, batch_size=3, generator=generator, augment=noisy))
    after = generator.get_state()

    generator.set_state(state)
    rest = list(data.batches(x, x, batch_size=3, generator=generator, augment=noisy, start=2))
    assert torch.equal(generator.get_state(), after)
    assert len(rest) == 2
    for (a, b), (c, d) in zip(second[2:], rest, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


def test_an_unfinished_epoch_leaves_the_generator_where_a_finished_one_does():
    x, finished, unfinished = torch.arange(10), seeded(), seeded()
    list(data.batches(x, x, batch_size=3, generator=finished))
    next(data.batches(x, x, batch_size=3, generator=unfinished))
    assert torch.equal(finished.get_state(), unfinished.get_state())


def test_sizes_that_do_not_fit_are_refused_at_once():
    x = torch.arange(4)
    with pytest.raises(ValueError, match="labels=3"):
        data.batches(x, x[:3], batch_size=2, generator=seeded())
    with pytest.raises(ValueError, match="batch_size=0"):
        data.batches(x, x, batch_size=0, generator=seeded())


def test_crop_and_flip_shifts_and_mirrors():
    images = torch.rand(64, 3, 5, 6)
    out = data.crop_and_flip(images, seeded(), padding=1)
    assert out.shape == images.shape
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    seen = set()
    for image, crop in zip(padded, out, strict=True):
        crops = {
            (top, left, mirrored): window.flip(2) if mirrored else window
            for top in range(3)
            for left in range(3)
            for window in [image[:, top : top + 5, left : left + 6]]
            for mirrored in (False, True)
        }
        matches = [key for key, window in crops.items() if torch.equal(window, crop)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 14  # of 18 ways, in 64 draws
    assert torch.equal(out, data.crop_and_flip(images, seeded(), padding=1))


def test_no_padding_leaves_images_or_mirrors_them():
    image = torch.tensor([[[[1, 2, 3]]]], dtype=torch.uint8)
    outs = [data.crop_and_flip(image, seeded(s), padding=0).flatten().tolist() for s in range(9)]
    assert sorted({tuple(out) for out in outs}) == [(1, 2, 3), (3, 2, 1)]
