"""The zoo: every task trains, is the same for the same seed, and says what it cannot take."""

import numpy as np
import pytest

import fp16sim as fs
from fp16sim.data.road import CLASSES, scenes
from fp16sim.models import SIZES, TASKS, task, unet, yolo

F = fs.functional


@pytest.fixture(scope="module")
def trained():
    """Every tiny task after its training: the task, its losses, its metrics before and after."""
    runs = {}
    for name in TASKS:
        one = task(name, "tiny", seed=0)
        before = one.evaluate()
        losses = [one.train_step(step).loss for step in range(one.steps)]
        runs[name] = one, losses, before, one.evaluate()
    return runs


#: a metric, whether more of it is better, and the interval that all metrics of the task are in
METRICS = {
    "autoencoder": ("error", False, 0, 1),
    "mlp": ("accuracy", True, 0, 1),
    "cnn": ("accuracy", True, 0, 1),
    "gpt": ("loss", False, 0, np.log(94) + 0.5),
    "yolo": ("mAP", True, 0, 1),
    "unet": ("mean Dice", True, 0, 1),
}
KEYS = {
    "yolo": ["mAP", "AP car", "AP pedestrian", "AP sign"],
    "unet": ["mean Dice", *(f"Dice {name}" for name in unet.CLASSES)],
}


class TestTasks:
    @pytest.mark.parametrize("name", TASKS)
    def test_the_loss_falls(self, name, trained):
        _, losses, *_ = trained[name]
        tenth = max(len(losses) // 10, 2)
        assert np.mean(losses[-tenth:]) < 0.9 * np.mean(losses[:tenth])

    @pytest.mark.parametrize("name", TASKS)
    def test_metrics(self, name, trained):
        one, _, before, after = trained[name]
        metric, more, low, high = METRICS[name]
        assert list(after) == KEYS.get(name, [metric])
        for values in (before, after):
            assert all(type(value) is float for value in values.values())
            assert all(low <= v <= high or np.isnan(v) for v in values.values())
        assert not np.isnan(after[metric])
        if name == "yolo":
            assert after[metric] >= before[metric]  # 20 steps are too few to see anything
        else:
            assert after[metric] > before[metric] if more else after[metric] < before[metric]
        assert one.evaluate() == after

    @pytest.mark.parametrize("name", TASKS)
    def test_evaluating_changes_nothing(self, name, trained):
        one = trained[name][0]
        one.model.train()
        before = {n: x.data.tobytes() for n, x in one.model.named_tensors()}
        one.evaluate()
        assert {n: x.data.tobytes() for n, x in one.model.named_tensors()} == before
        assert all(module.training for _, module in one.model.named_modules())

    @pytest.mark.parametrize("name", TASKS)
    def test_a_batch_depends_on_its_step_and_the_seed_only(self, name, trained):
        one = trained[name][0]  # has drawn others before
        same, other = task(name, "tiny", seed=0), task(name, "tiny", seed=1)
        for step in (7, 0, 1000, 7):
            batches = [which.batch(step) for which in (one, same, other)]
            assert equal(batches[0], batches[1])
            assert not equal(batches[0], batches[2])
            assert len({len(part) for part in batches[0]}) == 1
        assert not equal(one.batch(0), one.batch(1))

    @pytest.mark.parametrize("name", TASKS)
    def test_the_same_seed_is_the_same_training(self, name, trained):
        _, losses, *_ = trained[name]
        same, other = task(name, "tiny", seed=0), task(name, "tiny", seed=1)
        assert [same.train_step(step).loss for step in range(3)] == losses[:3]
        assert other.train_step(0).loss != losses[0]

    @pytest.mark.parametrize("name", TASKS)
    def test_trains_in_fp16_too(self, name):
        one, scaler = task(name, "tiny", seed=0), fs.GradScaler(init_scale=2.0**12)
        steps = [
            one.train_step(step, precision=fs.autocast("fp16"), scaler=scaler) for step in range(6)
        ]
        assert not any(step.skipped for step in steps)
        assert np.isfinite([step.loss for step in steps]).all()
        assert {p.fmt for p in one.model.parameters()} == {fs.FP32}

    @pytest.mark.parametrize("name", TASKS)
    def test_a_run_takes_the_same_steps(self, name, trained):
        _, losses, *_ = trained[name]
        run = task(name, "tiny", seed=0).run()
        assert [step.loss for step in run.train(3)] == losses[:3]

    def test_every_epoch_has_every_sample_once(self):
        one, seen = task("unet", "tiny"), []
        for step in range(12):  # 24 images, 4 in a batch
            seen += [image.tobytes() for image in one.batch(step)[0]]
        assert len(set(seen[:24])) == len(set(seen)) == 24
        assert seen[:24] != seen[24:]

    def test_sizes(self):
        assert SIZES == ("tiny", "laptop", "gpu")
        for name in TASKS:
            settings = getattr(fs.models, name).SETTINGS
            assert tuple(settings) == SIZES

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            (("resnet",), ValueError, "name='resnet' is not known; allowed are autoencoder, mlp"),
            ((3,), TypeError, "name must be a name, got 3"),
            (("mlp", "huge"), ValueError, "size='huge' is not known; allowed are tiny, laptop"),
            (("mlp", "tiny", -1), ValueError, "seed=-1"),
            (("mlp", "tiny", 0.5), TypeError, "seed must be an integer"),
        ],
    )
    def test_refusals(self, arguments, error, message):
        with pytest.raises(error, match=message):
            task(*arguments)


def equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture(scope="module")
def gpt():
    model = fs.models.GPT(11, length=6, width=8, depth=2, heads=2, dropout=0.5, rng=0)
    for p in model.parameters():
        p.data = 20 * p.data  # far from all equal
    return model


class TestGPT:
    IDS = np.array([[1, 2, 3], [4, 5, 6]])

    def test_generate(self, gpt):
        ids = gpt.generate(self.IDS, 9, rng=3)  # more than it can look at
        assert ids.shape == (2, 12)
        assert ids.dtype == self.IDS.dtype
        assert np.array_equal(ids[:, :3], self.IDS)
        assert ids.min() >= 0
        assert ids.max() < 11
        assert np.array_equal(ids, gpt.generate(self.IDS, 9, rng=3))
        assert not np.array_equal(ids, gpt.generate(self.IDS, 9, rng=4))
        assert np.array_equal(gpt.generate(self.IDS, 0), self.IDS)
        assert all(module.training for _, module in gpt.named_modules())

    def test_at_low_temperature_it_takes_the_likeliest(self, gpt):
        ids, expected = self.IDS, self.IDS
        gpt.eval()
        for _ in range(5):
            likeliest = gpt(expected[:, -6:]).data[:, -1].argmax(axis=1)
            expected = np.concatenate([expected, likeliest[:, None]], axis=1)
        gpt.train()
        for temperature in (1e-6, 1e-300):
            assert np.array_equal(gpt.generate(ids, 5, temperature, rng=0), expected)

    def test_draws_with_the_networks_probabilities(self, gpt):
        ids = np.repeat(self.IDS[:1], 4000, axis=0)
        drawn = gpt.generate(ids, 1, temperature=2.0, rng=0)[:, -1]
        gpt.eval()
        logits = gpt(self.IDS[:1]).data[0, -1].astype(float) / 2
        gpt.train()
        p = np.exp(logits) / np.exp(logits).sum()
        shares = np.bincount(drawn, minlength=11) / 4000
        assert (abs(shares - p) <= 5 * np.sqrt(p * (1 - p) / 4000) + 1e-12).all()

    def test_sees_nothing_of_the_future(self, gpt):
        gpt.eval()
        one, other = gpt(np.array([[1, 2, 3, 4]])), gpt(np.array([[1, 2, 9, 9]]))
        gpt.train()
        assert np.array_equal(one.data[:, :2], other.data[:, :2])
        assert not np.array_equal(one.data[:, 2:], other.data[:, 2:])

    @pytest.mark.parametrize(
        ("action", "error", "message"),
        [
            (lambda g: g(np.zeros((1, 7), int)), ValueError, r"\(1, 7\); allowed is \(N, 1 to 6\)"),
            (lambda g: g(np.zeros((1, 0), int)), ValueError, r"\(1, 0\); allowed is"),
            (lambda g: g(np.zeros(3, int)), ValueError, r"\(3,\); allowed is"),
            (lambda g: g(np.array([[11]])), ValueError, "value 11; allowed are 0 to 10"),
            (lambda g: g(np.array([[0.5]])), TypeError, "has dtype float64"),
            (lambda g: g.generate(TestGPT.IDS, -1), ValueError, "count=-1"),
            (lambda g: g.generate(TestGPT.IDS, 1, 0.0), ValueError, "temperature=0.0"),
            (lambda g: fs.models.GPT(5, depth=0), ValueError, "depth=0"),
            (lambda g: fs.models.GPT(5, length=0), ValueError, "length=0"),
            (lambda g: fs.models.GPT(5, width=6, heads=4), ValueError, "heads=4 does not divide"),
        ],
    )
    def test_refusals(self, gpt, action, error, message):
        with pytest.raises(error, match=message):
            action(gpt)
        assert gpt.training

    def test_initial_deviations(self):
        model = fs.models.GPT(50, width=64, depth=8, heads=4, rng=0)
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                assert not p.data.any()
            elif "norm" in name:
                assert (p.data == 1).all()
            else:
                ends = name.endswith(("attention.out.weight", "mlp.2.weight"))
                expected = 0.02 / 4 if ends else 0.02
                assert abs(p.data.std() / expected - 1) < 5 / np.sqrt(2 * p.size), name


def perfect(cells):
    """What a detector says that knows the targets (n, 6, rows, columns)."""
    said = np.zeros((len(cells), 5 + len(CLASSES), *cells.shape[2:]), np.float32)
    said[:, 0] = np.where(cells[:, 0] > 0, 20, -20)
    with np.errstate(divide="ignore"):
        said[:, 1:3] = np.log(cells[:, 1:3] / (1 - cells[:, 1:3]))
    said[:, 3:5] = cells[:, 3:5]
    for label in range(len(CLASSES)):
        said[:, 5 + label] = np.where(cells[:, 5] == label, 20, 0)
    return said


@pytest.fixture(scope="module")
def data():
    """Scenes in which every object has a cell of its own."""
    drawn = scenes(60, 64, rng=5)
    alone = []
    for image, boxes in enumerate(drawn.boxes):
        cells = (boxes[:, :2] // yolo.CELL).astype(int)
        if len(np.unique(cells, axis=0)) == len(boxes):
            alone.append(image)
    assert len(alone) > 20
    boxes, labels = ([part[image] for image in alone] for part in (drawn.boxes, drawn.labels))
    return fs.data.Scenes(drawn.images[alone], boxes, labels)


class TestDetector:
    def test_perfect_outputs_have_a_perfect_score(self, data):
        found = yolo.detections(perfect(yolo.targets(data)))
        objects = list(zip(data.boxes, data.labels, strict=True))
        assert fs.metrics.mean_average_precision(found, objects, len(CLASSES))["mean"] == 1
        for (boxes, scores, labels), wanted, kinds in zip(
            found, data.boxes, data.labels, strict=True
        ):
            mine, theirs = np.argsort(boxes[:, 0]), np.argsort(wanted[:, 0])
            np.testing.assert_allclose(boxes[mine], wanted[theirs], rtol=1e-5, atol=1e-4)
            assert np.array_equal(labels[mine], kinds[theirs])
            assert (scores > 0.999).all()

    def test_targets(self):
        boxes = np.array([[20.0, 9.0, 16.0, 4.0], [64.0, 64.0, 8.0, 8.0]], np.float32)
        images = np.zeros((2, 3, 64, 64), np.float32)
        none = np.zeros((0, 4), np.float32)
        data = fs.data.Scenes(images, [boxes, none], [np.array([2, 1]), np.zeros(0, np.int64)])
        cells = yolo.targets(data)
        assert cells.shape == (2, 6, 8, 8)
        assert cells.dtype == np.float32
        assert cells[0, 0].sum() == 2
        assert not cells[1].any()
        expected = [1, 0.5, 0.125, np.log(2), np.log(0.5), 2]
        np.testing.assert_allclose(cells[0, :, 1, 2], expected, rtol=1e-6)
        assert cells[0, :, 7, 7].tolist() == [1, 1, 1, 0, 0, 1]  # on the border: the last cell

    def test_what_is_unlikely_and_what_overlaps_goes(self):
        said = np.full((1, 8, 2, 2), -20.0, np.float32)
        said[0, :, 0, 0] = [20, 5, 0, 1, 1, 20, 0, 0]
        said[0, :, 0, 1] = [2, -5, 0, 1, 1, 20, 0, 0]  # almost the same box, less likely
        said[0, :, 1, 1] = [3, 0, 0, 0, 0, 0, 20, 0]
        ((boxes, scores, labels),) = yolo.detections(said)
        assert labels.tolist() == [0, 1]
        np.testing.assert_allclose(scores, [1, 1 / (1 + np.exp(-3))], rtol=1e-6)
        np.testing.assert_allclose(boxes[1], [12, 12, 8, 8], rtol=1e-6)
        ((boxes, *_),) = yolo.detections(said, threshold=0.99)
        assert len(boxes) == 1

    def test_a_loss_of_perfect_outputs_is_none(self, data):
        model, cells = fs.models.Detector(4, rng=0), yolo.targets(data)
        with model.hook(lambda *_: fs.Tensor(perfect(cells))):
            loss = model.loss(data.images, cells).item()
        assert 0 <= loss < 1e-6

    @pytest.mark.parametrize("shape", [(1, 3, 16, 12), (1, 3, 12, 16), (1, 1, 16, 16), (3, 16, 16)])
    def test_image_sizes(self, shape):
        with pytest.raises(
            ValueError, match=r"images have shape .*; allowed is \(N, 3, H, W\).* 8"
        ):
            fs.models.Detector(4, rng=0)(fs.Tensor(np.zeros(shape, np.float32)))

    def test_targets_of_another_size_are_refused(self):
        model = fs.models.Detector(4, rng=0)
        images = np.zeros((1, 3, 16, 16), np.float32)
        with pytest.raises(ValueError, match=r"target has shape \(1, 1, 3, 3\)"):
            model.loss(images, np.zeros((1, 6, 3, 3), np.float32))


class TestUNet:
    @pytest.mark.parametrize("mask", [4, -1])
    def test_masks_of_other_classes_are_refused(self, mask):
        model = fs.models.UNet(classes=4, rng=0)
        with pytest.raises(ValueError, match=f"value {mask}; allowed are"):
            model.loss(np.zeros((1, 1, 32, 32), np.float32), np.full((1, 32, 32), mask))

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((1, 1, 6, 8), r"images have shape \(1, 1, 6, 8\); allowed is \(N, 1, H, W\).* 4"),
            ((1, 1, 8, 10), r"images have shape \(1, 1, 8, 10\)"),
            ((1, 3, 8, 8), r"images have shape \(1, 3, 8, 8\)"),
            ((1, 8, 8), r"images have shape \(1, 8, 8\)"),
        ],
    )
    def test_image_sizes(self, shape, message):
        with pytest.raises(ValueError, match=message):
            fs.models.UNet(4, 2, rng=0)(fs.Tensor(np.zeros(shape, np.float32)))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"width": 6}, "6 channels"),
            ({"width": 0}, "out_channels=0"),
            ({"depth": -1}, "depth=-1"),
        ],
    )
    def test_settings(self, settings, message):
        with pytest.raises(ValueError, match=message):
            fs.models.UNet(**settings)

    @pytest.mark.parametrize("depth", [0, 1, 3])
    def test_shapes(self, depth):
        x = fs.Tensor(np.zeros((2, 1, 8, 16), np.float32))
        model = fs.models.UNet(4, depth, classes=5, rng=0)
        assert model(x).shape == (2, 5, 8, 16)
        assert model.down[depth].conv2.weight.shape == (4 * 2**depth, 4 * 2**depth, 3, 3)
