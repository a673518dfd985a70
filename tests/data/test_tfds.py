"""Sets of TFDS: prepared by TensorFlow from local files, read without it, and every way to fail."""

import gzip
import shutil
import socket
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

import capsjax.data.tfds
from capsjax.data import DataError, load_part, load_training
from capsjax.data.tfds import find_data_dir
from tests.tiny import ROOT

SHAPES = {
    "mnist": (28, 28, 1),
    "fashion_mnist": (28, 28, 1),
    "kmnist": (28, 28, 1),
    "cifar10": (32, 32, 3),
    "svhn_cropped": (32, 32, 3),
}
SIZES = {"train": 24, "test": 12}
REMEDY = ("--config.data.dir", "TFDS_DATA_DIR", "configs/digits.py")


def make_part(shape, part):
    rng = np.random.RandomState(len(part))
    images = rng.randint(0, 256, (SIZES[part], *shape)).astype(np.uint8)
    return images, np.arange(SIZES[part]) % 10


def pairs(images, labels):
    """TFDS shuffles as it prepares, so examples are compared as a set."""
    return {(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}


def serve(patch, cls, parts):
    """Let the builder of TFDS write these examples, in place of those of a download."""
    patch.setattr(
        cls,
        "_split_generators",
        lambda self, _: {p: self._generate_examples(*parts[p]) for p in parts},
    )

    def generate(self, images, labels):
        image_key, label_key = self.info.supervised_keys
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            others = {"id": str(index)} if "id" in self.info.features else {}
            yield index, {image_key: image, label_key: int(label), **others}

    patch.setattr(cls, "_generate_examples", generate)
    patch.setattr(capsjax.data.tfds, "_network_answers", lambda builder: True)


def builder_class(name):
    import tensorflow_datasets as tfds

    return tfds.builder_cls(name)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A directory that holds all five sets, a few examples of each, in TFDS's own files."""
    directory = tmp_path_factory.mktemp("prepared")
    for name, shape in SHAPES.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CAPSJAX_CACHE_DIR", str(directory / "cache"))
            serve(patch, builder_class(name), {part: make_part(shape, part) for part in SIZES})
            load_part(name, "train", dir=str(directory))
    shutil.rmtree(directory / "cache")
    return directory


@pytest.fixture
def no_network(monkeypatch):
    def resolve(host, *_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.fixture
def network(monkeypatch):
    """Names resolve; nothing is ever asked of the address."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])


def must_not_download(*_, **__):
    pytest.fail("goes for the network")


def check_message(error, name, directory):
    message = str(error.value)
    for part in (f"data set {name!r}", str(directory), *REMEDY):
        assert part in message
    assert "\n" not in message


@pytest.mark.ci
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("part", SIZES)
def test_reads_what_is_prepared(prepared, no_network, name, part):
    arrays = load_part(name, part, dir=str(prepared))
    assert arrays.images.shape == (SIZES[part], *SHAPES[name])
    assert arrays.num_classes == 10
    assert pairs(arrays.images, arrays.labels) == pairs(*make_part(SHAPES[name], part))


@pytest.mark.ci
def test_second_time_comes_from_the_cache(prepared, monkeypatch):
    first = load_part("mnist", "train", dir=str(prepared))
    monkeypatch.setattr(capsjax.data.tfds, "_decode", pytest.fail)
    again = load_part("mnist", "train", dir=str(prepared))
    np.testing.assert_array_equal(again.images, first.images)
    np.testing.assert_array_equal(again.labels, first.labels)


@pytest.mark.ci
def test_training_never_reads_the_test_part(prepared, monkeypatch):
    decoded = []
    decode = capsjax.data.tfds._decode

    def spy(builder, part, *keys):
        decoded.append(part)
        return decode(builder, part, *keys)

    monkeypatch.setattr(capsjax.data.tfds, "_decode", spy)
    (prepared_file,) = prepared.glob("mnist/*/mnist-test.array_record*")
    hidden = prepared_file.with_name("hidden")
    prepared_file.rename(hidden)
    try:
        train, validation = load_training("mnist", dir=str(prepared), validation_size=4)
    finally:
        hidden.rename(prepared_file)
    assert decoded == ["train"]
    both = pairs(train.images, train.labels) | pairs(validation.images, validation.labels)
    assert both == pairs(*make_part(SHAPES["mnist"], "train"))


def test_data_dir_comes_from_the_argument_then_the_variable_then_the_default(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("TFDS_DATA_DIR", "~/data")
    assert find_data_dir("~/other") == "/home/me/other"
    assert find_data_dir("") == "/home/me/data"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert find_data_dir("") == "/home/me/tensorflow_datasets"


@pytest.mark.ci
def test_variable_names_the_directory(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(load_part("kmnist", "test")) == SIZES["test"]


def run_python(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.ci
def test_reading_does_without_tensorflow(prepared):
    program = """
import sys
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name == "tensorflow" else find_spec(name, *rest)

from capsjax.data import load_part
print(load_part("cifar10", "test", dir=sys.argv[1]).images.shape, "tensorflow" in sys.modules)
"""
    result = run_python(program, str(prepared))
    assert result.returncode == 0, result.stderr
    assert result.stdout == "(12, 32, 32, 3) False\n"
    # TFDS's advice to install OpenCV is no news for the user.
    assert "OpenCV" not in result.stderr


@pytest.mark.ci
def test_importing_capsjax_imports_nothing_heavy():
    program = """
import sys
import capsjax, capsjax.data, capsjax.data.tfds, capsjax.runs.checkpoint
from tests.tiny import ROOT
names = ("tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "tensorboardX")
print([name for name in names if name in sys.modules])
"""
    assert run_python(program).stdout == "[]\n"


def write_idx(folder, stem, images, labels):
    """The format of the original files of MNIST."""
    with gzip.open(folder / f"{stem}-images-idx3-ubyte.gz", "wb") as file:
        file.write(struct.pack(">4i", 2051, *images.shape[:3]) + images.tobytes())
    with gzip.open(folder / f"{stem}-labels-idx1-ubyte.gz", "wb") as file:
        file.write(struct.pack(">2i", 2049, len(labels)) + labels.astype(np.uint8).tobytes())


def test_prepares_mnist_from_its_original_files(tmp_path, monkeypatch, network, capfd):
    """Everything real but the transfer: TFDS unpacks, reads, encodes, shuffles and writes."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.image_classification import mnist

    files = tmp_path / "files"
    files.mkdir()
    parts = {part: make_part((28, 28, 1), part) for part in SIZES}
    write_idx(files, "train", *parts["train"])
    write_idx(files, "t10k", *parts["test"])
    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", SIZES["train"])
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", SIZES["test"])
    downloads = []

    def fetch(self, urls):
        downloads.append(urls)
        return self.extract({key: files / url.rpartition("/")[2] for key, url in urls.items()})

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", fetch)
    directory = tmp_path / "data"
    for part in SIZES:
        arrays = load_part("mnist", part, dir=str(directory))
        assert pairs(arrays.images, arrays.labels) == pairs(*parts[part])
    assert len(downloads) == 1
    assert list(directory.glob("mnist/*/mnist-train.array_record-00000-of-00001"))
    assert f"'mnist' is not in {directory}: TFDS downloads" in capfd.readouterr().out

    import tensorflow as tf

    # JAX is to have the memory of the GPU.
    assert tf.config.get_visible_devices("GPU") == []


def test_without_a_network_says_so_at_once(tmp_path, monkeypatch, no_network):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", must_not_download)
    start = time.monotonic()
    with pytest.raises(DataError, match="no host of its download can be reached") as error:
        load_part("mnist", "train", dir=str(tmp_path / "data"))
    check_message(error, "mnist", tmp_path / "data")
    assert time.monotonic() - start < 10  # TFDS alone retries for three minutes
    assert not (tmp_path / "data").exists()


def test_hosts_are_asked_one_after_another_until_one_resolves(monkeypatch):
    import tensorflow_datasets as tfds

    asked = []

    def resolve(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    builder = tfds.builder("fashion_mnist", data_dir="/nowhere")
    assert not capsjax.data.tfds._network_answers(builder)
    assert "fashion-mnist.s3-website.eu-central-1.amazonaws.com" in asked
    assert len(asked) == len(set(asked))


def test_behind_a_proxy_the_proxy_resolves_names(monkeypatch, no_network):
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    builder = builder_class("mnist")(data_dir="/nowhere")
    assert capsjax.data.tfds._network_answers(builder)


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionError("connection\nreset " + "x" * 1000),
        OSError(28, "No space left on device"),
        AssertionError("checksum"),
    ],
)
def test_download_that_fails_midway(tmp_path, monkeypatch, network, failure):
    import tensorflow_datasets as tfds

    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(DataError, match=f"could not download .*{type(failure).__name__}") as error:
        load_part("mnist", "train", dir=str(tmp_path / "data"))
    check_message(error, "mnist", tmp_path / "data")
    assert len(str(error.value)) < 800
    assert error.value.__cause__ is failure


def test_half_a_preparation_is_not_taken_for_a_data_set(tmp_path, monkeypatch, network):
    cls = builder_class("mnist")
    directory = str(tmp_path / "data")
    parts = {part: make_part((28, 28, 1), part) for part in SIZES}

    def break_off(self, images, labels):
        yield 0, {"image": images[0], "label": 0}
        raise ConnectionError("connection reset")

    with monkeypatch.context() as patch:
        serve(patch, cls, parts)
        patch.setattr(cls, "_generate_examples", break_off)
        with pytest.raises(DataError, match="connection reset"):
            load_part("mnist", "train", dir=directory)
    with monkeypatch.context() as patch:
        serve(patch, cls, parts)
        assert len(load_part("mnist", "train", dir=directory)) == SIZES["train"]


def test_without_tensorflow_says_how_to_get_it(tmp_path, monkeypatch, network):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(DataError, match="pip install tensorflow") as error:
        load_part("mnist", "train", dir=str(tmp_path / "data"))
    check_message(error, "mnist", tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "nearest"), [("mnits", "mnist"), ("digit", "digits"), ("cifar", "cifar10")]
)
def test_unknown_set_is_told_the_nearest_name(name, nearest):
    with pytest.raises(DataError, match=f"unknown data set '{name}'; did you mean '{nearest}'"):
        load_part(name, "train")


def make_builder(name, features, supervised_keys, parts):
    """A set of one's own, for what no small set of TFDS has."""
    import tensorflow_datasets as tfds

    def info(self):
        features_dict = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(
            builder=self, features=features_dict, supervised_keys=supervised_keys
        )

    def split_generators(self, _):
        return {part: iter(enumerate(examples)) for part, examples in parts.items()}

    body = {
        "__module__": __name__,
        "VERSION": tfds.core.Version("1.0.0"),
        "pkg_dir_path": None,
        "_info": info,
        "_split_generators": split_generators,
        "_generate_examples": lambda self: iter(()),
    }
    return type(name, (tfds.core.GeneratorBasedBuilder,), body, skip_registration=True)


def image(shape=(4, 4, 1)):
    return np.zeros(shape, np.uint8)


def unusual_sets():
    import tensorflow_datasets as tfds

    pictures = tfds.features.Image(shape=(4, 4, 1))
    labels = tfds.features.ClassLabel(num_classes=3)
    one = {"image": image(), "label": 0}
    return {
        "text": (
            {"text": tfds.features.Text(), "label": labels},
            ("text", "label"),
            {"train": [{"text": "a", "label": 0}]},
        ),
        "no_keys": ({"image": pictures, "label": labels}, None, {"train": [one]}),
        "pairs": (
            {"image": pictures, "label": pictures},
            ("image", "label"),
            {"train": [{"image": image(), "label": image()}]},
        ),
        "any_size": (
            {"image": tfds.features.Image(shape=(None, None, 1)), "label": labels},
            ("image", "label"),
            {"train": [one, {"image": image((5, 6, 1)), "label": 1}]},
        ),
        "no_test": ({"image": pictures, "label": labels}, ("image", "label"), {"train": [one]}),
        "unlabelled": (
            {"image": pictures, "label": labels},
            ("image", "label"),
            {"train": [one], "test": [{"image": image(), "label": -1}]},
        ),
    }


@pytest.fixture
def unusual(tmp_path, monkeypatch):
    """Prepares one of these sets by its name, and lets `load_part` find it."""

    def prepare(name):
        cls = make_builder(name, *unusual_sets()[name])
        builder = cls(data_dir=tmp_path / "data", file_format="array_record")
        builder.download_and_prepare(file_format="array_record")
        monkeypatch.setattr(capsjax.data.tfds, "_make_builder", lambda *_: builder)

    return prepare


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        ("text", "train", "'text' is not one of images with one label each"),
        ("no_keys", "train", "is not one of images with one label each"),
        ("pairs", "train", "is not one of images with one label each"),
        ("any_size", "train", r"differ in size \(\(None, None, 1\)\); .* data.name=npz"),
        # Before training, too.
        ("no_test", "train", r"no part 'test', only \['train'\]: .* data.name=npz, .* sixth"),
        ("no_test", "test", r"no part 'test', only \['train'\]"),
        ("unlabelled", "test", "labels run from 0 to 2, not from -1"),
    ],
)
def test_set_that_does_not_fit_is_refused(unusual, name, part, message):
    unusual(name)
    with pytest.raises(DataError, match=message):
        load_part(name, part)


def test_set_that_does_not_fit_is_refused_before_the_download(tmp_path, network, monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", must_not_download)
    with pytest.raises(DataError, match="is not one of images with one label each"):
        load_part("imdb_reviews", "train", dir=str(tmp_path))


def test_set_without_a_list_of_downloads(no_network, tmp_path):
    cls = make_builder("no_test", *unusual_sets()["no_test"])
    assert capsjax.data.tfds._network_answers(cls(data_dir=tmp_path))


def test_set_that_plain_tfds_has_prepared(tmp_path, monkeypatch, network):
    """TFDS writes tfrecord files by itself: many users have such a directory."""
    cls = builder_class("mnist")
    parts = {part: make_part((28, 28, 1), part) for part in SIZES}
    with monkeypatch.context() as patch:
        serve(patch, cls, parts)
        cls(data_dir=tmp_path).download_and_prepare()
    with pytest.raises(DataError, match="tfrecord") as error:
        load_part("mnist", "train", dir=str(tmp_path))
    check_message(error, "mnist", tmp_path)


@pytest.mark.ci
@pytest.mark.parametrize("damage", ["empty", "missing", "half", "changed"])
def test_damaged_files_of_a_set(prepared, tmp_path, damage):
    shutil.copytree(prepared / "mnist", tmp_path / "mnist")
    (path,) = tmp_path.glob("mnist/*/mnist-train.array_record*")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes({"empty": b"", "half": data[: len(data) // 2]}.get(damage, data))
    if damage == "missing":
        path.unlink()
    with pytest.raises(DataError, match="mnist"):
        load_part("mnist", "train", dir=str(tmp_path))


@pytest.mark.parametrize("name", ["", "my set", "emnist/nothing", "mnist:9.9.9"])
def test_name_that_tfds_cannot_take(name, no_network):
    with pytest.raises(DataError):
        load_part(name, "train")


def test_directories_do_not_share_a_cached_set(tmp_path, monkeypatch, network):
    """Two preparations of equal sizes, of different examples."""
    for value in (1, 2):
        images = np.full((3, 28, 28, 1), value, np.uint8)
        images[:, 0, 0, 0] = [10, 20, 30]
        parts = {part: (images, np.arange(3)) for part in SIZES}
        with monkeypatch.context() as patch:
            serve(patch, builder_class("mnist"), parts)
            arrays = load_part("mnist", "train", dir=str(tmp_path / str(value)))
        assert pairs(arrays.images, arrays.labels) == pairs(images, np.arange(3))
