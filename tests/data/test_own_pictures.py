"""Own pictures in folders and in tables: parts, classes, sizes, colours, and what is refused."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from capsjax.data import Arrays, DataError, load_part, load_training
from capsjax.data.pictures import describe_picture, read_picture, upright

# Pictures of the two classes, by the grey of all their pixels.
PICTURES = {"dog": (10, 11, 12, 13, 14, 15), "cat": (20, 21, 22, 23, 24, 25)}


def save(path, grey, size=(4, 6), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, grey, np.uint8)).convert(mode).save(path)


def save_classes(folder, pictures=PICTURES, **form):
    for name, greys in pictures.items():
        for grey in greys:
            save(folder / name / f"{grey}.png", grey, **form)


def greys(arrays):
    return arrays.images[:, 0, 0, 0].tolist()


def load(file, part="train", name="folder", **settings):
    return load_part(name, part, file=str(file), **{name: settings})


@pytest.fixture
def folder(tmp_path):
    save_classes(tmp_path / "own")
    return tmp_path / "own"


def write_table(folder, text):
    (folder / "own.csv").write_text(text)
    return folder / "own.csv"


def test_classes_are_the_folders_in_the_order_of_their_names(folder):
    (folder / ".cache").mkdir()
    train = load(folder)
    assert (train.class_names, train.num_classes) == (("cat", "dog"), 2)
    assert train.image_shape == (4, 6, 1)
    np.testing.assert_array_equal(np.array(greys(train)) >= 20, train.labels == 0)


def test_a_sixth_is_set_aside_for_testing(folder):
    train, test = load(folder), load(folder, "test")
    assert (len(train), len(test)) == (10, 2)
    assert sorted(greys(train) + greys(test)) == [*PICTURES["dog"], *PICTURES["cat"]]
    # The frozen shuffle of 12 positions, of the cats before the dogs; earlier versions took the
    # first of it, whatever their classes.
    assert greys(test) == [24, 10]
    assert greys(load_part("folder", "test", file=str(folder), split="shuffled")) == [10, 15]


def test_parts_of_ones_own_are_taken_as_they_are(tmp_path):
    save_classes(tmp_path / "train", {"a": (1, 2), "b": (3,), "c": (4,)})
    save_classes(tmp_path / "test", {"c": (5, 6)})
    train, test = load(tmp_path), load(tmp_path, "test")
    assert (greys(train), train.labels.tolist()) == ([1, 2, 3, 4], [0, 0, 1, 2])
    assert (greys(test), test.labels.tolist()) == ([5, 6], [2, 2])
    assert test.class_names == ("a", "b", "c")
    part, validation = load_training(
        "folder", file=str(tmp_path), validation_size=1, split="shuffled"
    )
    assert part.class_names == validation.class_names == ("a", "b", "c")


def test_a_test_part_needs_no_training_part(tmp_path):
    save_classes(tmp_path / "test", {"a": (1, 2)})
    assert greys(load(tmp_path, "test")) == [1, 2]
    with pytest.raises(DataError, match="has no pictures for training"):
        load(tmp_path)


def test_a_table_lists_pictures_beside_it(folder):
    rows = ["path,part,label,more"]
    rows += [f"dog/{grey}.png,train,no,1" for grey in (10, 11)]
    rows += ["cat/20.png,train,yes,2", "cat/21.png,test,yes,3"]
    table = write_table(folder, "\ufeff" + "\n".join(rows))
    train, test = load(table, name="csv"), load(table, "test", name="csv")
    assert train.class_names == ("no", "yes")
    assert (greys(train), train.labels.tolist()) == ([10, 11, 20], [0, 0, 1])
    assert (greys(test), test.labels.tolist()) == ([21], [1])


def test_a_table_without_parts_sets_a_sixth_aside(folder):
    rows = [f"{folder}/{name}/{grey}.png,{name}" for name in PICTURES for grey in PICTURES[name]]
    table = write_table(folder, "\n".join(["path,label", *rows]))
    assert len(load(table, name="csv")) == 10
    assert len(load(table, "test", name="csv")) == 2


def test_pictures_of_any_size_become_images_of_the_size_that_is_set(folder):
    save(folder / "dog" / "16.png", 16, size=(8, 2))
    train = load(folder, image_size=(5, 3), colour="colour")
    assert train.image_shape == (5, 3, 3)
    assert set(np.unique(train.images)) <= {*PICTURES["dog"], *PICTURES["cat"], 16}


def oriented(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
def test_pictures_that_a_camera_marked_as_turned_are_upright(tmp_path, suffix):
    # Six blocks of 16x16 pixels, each of its own grey: JPEG keeps them apart.
    stored = np.kron([[0, 80, 160], [40, 120, 240]], np.ones((16, 16))).astype(np.uint8)
    across = stored[:, ::-1]
    shown = [stored, across, across[::-1], stored[::-1]]
    shown += [stored.T, np.rot90(stored, -1), stored.T[::-1, ::-1], np.rot90(stored), stored]
    for orientation, expected in enumerate(shown, 1):  # there is no orientation 9
        path = tmp_path / f"{orientation}.{suffix}"
        Image.fromarray(stored).save(path, exif=oriented(orientation), quality=100)
        assert describe_picture(path).size == expected.shape
        image = read_picture(path, (*expected.shape, 1))[..., 0]
        np.testing.assert_allclose(image, expected, atol=8, err_msg=str(orientation))


def test_a_picture_with_damaged_exif_is_read_as_it_is_stored(tmp_path):
    whole = oriented(6).tobytes()
    Image.new("L", (6, 4), 7).save(tmp_path / "x.webp", exif=whole, lossless=True)
    data = (tmp_path / "x.webp").read_bytes()
    header = whole.index(b"MM\0*")
    assert data.count(whole[header : header + 8]) == 1
    (tmp_path / "x.webp").write_bytes(data.replace(b"MM\0*", b"XX\0*"))
    assert describe_picture(tmp_path / "x.webp").size == (4, 6)
    assert np.unique(read_picture(tmp_path / "x.webp", (4, 6, 1))).tolist() == [7]
    assert upright(Image.new("L", (6, 4))).size == (6, 4)


@pytest.mark.parametrize(
    ("form", "mode"), [("x.png", "RGBA"), ("x.png", "LA"), ("x.gif", "RGBA"), ("x.webp", "RGBA")]
)
def test_what_is_transparent_becomes_white(tmp_path, form, mode):
    # A black stroke whose surroundings are black, too, where they cannot be seen.
    pixels = np.zeros((8, 8, 2 if mode == "LA" else 4), np.uint8)
    pixels[2:6, 3:5, -1] = 255
    Image.fromarray(pixels).save(tmp_path / form, lossless=True)
    expected = np.where(pixels[..., -1:] > 0, 0, 255)
    np.testing.assert_array_equal(read_picture(tmp_path / form, (8, 8, 1)), expected)
    colours = read_picture(tmp_path / form, (8, 8, 3))
    np.testing.assert_array_equal(colours, np.broadcast_to(expected, (8, 8, 3)))
    with_alpha = read_picture(tmp_path / form, (8, 8, 4))
    np.testing.assert_array_equal(with_alpha[..., 3:], pixels[..., -1:])


def test_hidden_files_and_folders_are_no_pictures_of_a_class(folder):
    before = load(folder)
    save(folder / "dog" / ".ipynb_checkpoints" / "10-checkpoint.png", 10)
    (folder / "cat" / "._20.png").write_bytes(b"no picture")
    assert load(folder).fingerprint() == before.fingerprint()


def test_pictures_are_grey_if_all_are_and_otherwise_in_colour(folder):
    assert load(folder).image_shape == (4, 6, 1)
    # Any of them, in whatever part: both parts have the same form.
    save(folder / "dog" / "10.png", 10, mode="RGB")
    assert load(folder).image_shape == load(folder, "test").image_shape == (4, 6, 3)
    assert load(folder, colour="grey").image_shape == (4, 6, 1)


def test_names_are_part_of_the_fingerprint(folder):
    before = load(folder).fingerprint()
    assert before["class names"] == ["cat", "dog"]
    (folder / "dog").rename(folder / "wolf")
    after = load(folder).fingerprint()
    assert {key for key in before if before[key] != after[key]} == {"class names"}


def one_of_each(count, class_names=()):
    images, labels = np.zeros((count, 2, 2, 1), np.uint8), np.arange(count, dtype=np.int32)
    return Arrays(images, labels, count, class_names=tuple(class_names))


def test_other_data_are_numbered_by_the_names_of_the_network(tmp_path):
    for part in ("train", "test"):
        save_classes(tmp_path / part, {"b": (1, 2), "c": (3,)})
    data = load(tmp_path)
    numbered = data.numbered_as(("a", "b", "c", "d"), 4)
    assert numbered.labels.tolist() == [label + 1 for label in data.labels]
    assert (numbered.num_classes, numbered.class_names) == (4, ("a", "b", "c", "d"))
    with pytest.raises(DataError, match="have the class 'c', and the network has a, b"):
        data.numbered_as(("a", "b"), 2)


def test_names_that_are_numbers_are_those_of_a_network_without_names():
    # Folders have the order of text, in which 10 comes before 2.
    names = sorted(map(str, range(12)))
    for count, given in ((12, names), (2, ["3", "7"]), (2, ["03", "07"])):
        numbered = one_of_each(count, given).numbered_as((), 12)
        assert numbered.labels.tolist() == list(map(int, given))
        assert (numbered.num_classes, numbered.class_names) == (12, ())
    numbered = one_of_each(12).numbered_as(tuple(names), 12)
    assert [names[label] for label in numbered.labels] == [str(k) for k in range(12)]
    numbers = one_of_each(3)
    assert numbers.numbered_as((), 4) is numbers
    with pytest.raises(DataError, match="have the class 3, and the network has 0, 1, 2"):
        one_of_each(3, "123").numbered_as((), 3)


def test_other_names_keep_their_order_if_they_are_all_of_the_classes():
    named = one_of_each(3, "abc")
    assert named.numbered_as((), 3) is named
    assert one_of_each(2).numbered_as(("a", "b"), 2).labels.tolist() == [0, 1]
    remedy = "a, b, c, and the network numbers its 4 classes: name each by its number, 0 to 3"
    with pytest.raises(DataError, match=remedy):
        named.numbered_as((), 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: folder.rename(folder.parent / "moved"), "no folder '.*own'"),
        (lambda folder: save(folder / "dog" / "7.png", 7, (5, 6)), r"4x6 pixels and .*7.png 5x6"),
        (lambda folder: (folder / "dog" / "10.png").write_text("no"), "10.png is no picture"),
        (lambda folder: (folder / "dog").rename(folder.parent / "dog"), "has one class, 'cat'"),
        (lambda folder: (folder / "owl").mkdir(), "no pictures below .*owl"),
        (lambda folder: save(folder / "train" / "x" / "1.png", 1), "folders cat, dog, train"),
    ],
)
def test_folders_that_cannot_be_used(folder, change, message):
    change(folder)
    with pytest.raises(ValueError, match=message) as raised:
        load(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("parts", "remedy"),
    [
        (("training", "testing"), "rename testing to test, rename training to train$"),
        (("Train", "Test"), "rename Test to test, rename Train to train$"),
        (("train", "test", "val"), "move the classes of val into train, .* data.validation_size$"),
    ],
)
def test_parts_of_other_names_are_not_taken_for_classes(tmp_path, parts, remedy):
    for part in parts:
        save_classes(tmp_path / part)
    with pytest.raises(DataError, match=rf"{parts[-1]}\b.* hold folders and no .*: {remedy}"):
        load(tmp_path)


def test_classes_may_have_such_names_and_folders_of_their_own(tmp_path):
    save_classes(tmp_path, {"training": (1, 2), "owl": (3, 4)})
    save_classes(tmp_path / "training", {"more": (5,)})
    save_classes(tmp_path / "owl", {"more": (6,)})
    (tmp_path / "owl" / "3.png").unlink()
    (tmp_path / "owl" / "4.png").unlink()
    save(tmp_path / "owl" / "others" / "7.png", 7)
    assert load(tmp_path).class_names == ("owl", "training")


def test_a_folder_of_pictures_alone_has_no_classes(tmp_path):
    save(tmp_path / "1.png", 1)
    with pytest.raises(DataError, match=r"no folders of classes .* DIR/CLASS/"):
        load(tmp_path)


def test_a_class_without_training_pictures(tmp_path):
    save_classes(tmp_path / "train", {"a": (1,), "b": (2,)})
    save_classes(tmp_path / "test", {"c": (3,)})
    with pytest.raises(DataError, match=r"class 'c' in .* for testing and none for training"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n", "lacks the column 'path'; it has file, label"),
        ("path\ndog/10.png\n", "lacks the column 'label'; it has path"),
        ("", "lacks the column 'path'; it has none"),
        ("path,label\n", "has no rows"),
        ("path,label\ndog/10.png,a\nx.png,b\ny.png,b\n", "row 2 of .* 'x.png|own/x.png', which is"),
        ("path,label\ndog/10.png\n", "row 1 of .* needs a label"),
        ("path,label,part\ndog/10.png,a,trian\n", "row 1 of .* train or test as its part"),
        ("path,label,part\ndog/10.png,a,train\ncat/20.png,b,test\n", "class 'b' in"),
        (b"\xff\xfe\x00", "is no readable table"),
    ],
)
def test_tables_that_cannot_be_used(folder, text, message):
    (folder / "own.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as raised:
        load(folder / "own.csv", name="csv")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": (28,)}, r"rows and columns, \(28, 28\), not \(28,\)"),
        ({"image_size": (0, 4)}, r"not \(0, 4\)"),
        ({"colour": "gray"}, "unknown colour of pictures 'gray'; did you mean 'grey'"),
        ({"size": (4, 4)}, "no setting 'size'"),
    ],
)
def test_settings_that_it_does_not_have(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        load(folder, **settings)


@pytest.mark.parametrize("name", ["folder", "csv"])
def test_a_file_that_is_not_given_or_not_there(name, tmp_path):
    with pytest.raises(DataError, match=r"needs the .*: --config.data.file="):
        load_part(name, "train")
    with pytest.raises(DataError, match=r"no (file|folder) .*nowhere"):
        load(tmp_path / "nowhere", name=name)


def test_a_picture_for_testing_that_cannot_be_read_stops_training(folder):
    number = greys(load(folder, "test"))[0]
    (folder / "dog" / f"{number}.png").write_text("no picture")
    with pytest.raises(ValueError, match=rf"{number}\.png is no picture"):
        load(folder, image_size=(4, 6), colour="grey")


def test_pictures_that_are_damaged_or_too_deep(folder):
    path = folder / "dog" / "11.png"
    path.write_bytes(path.read_bytes()[:-28])
    with pytest.raises(ValueError, match=r"11.png cannot be read: "):
        load(folder)
    noise = np.random.RandomState(0).randint(0, 256, (300, 300)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    first, second, *rest = path.read_bytes().split(b"IDAT")
    path.write_bytes(b"IDAT".join([first, second + b"I?AT" + rest[0], *rest[1:]]))
    with pytest.raises(ValueError, match=r"11.png cannot be read: broken PNG"):
        load(folder, image_size=(4, 6))
    Image.fromarray(np.full((4, 6), 5000, np.uint16)).save(path)
    with pytest.raises(ValueError, match=r"11.png has more than 8 bits"):
        load(folder)


def test_a_picture_too_large_for_pillow_is_named(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)
    save(folder / "dog" / "16.png", 16, size=(2100, 2000))
    with pytest.raises(DataError, match=r"16\.png has more than 4 megapixels: save it smaller"):
        load(folder, image_size=(4, 6))
