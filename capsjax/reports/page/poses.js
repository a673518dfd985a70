"use strict";
// The pose study: a slider for each dimension of a class capsule, and the picture decoded from it.
const Poses = (() => {
  function make(name, attributes = {}, ...content) {
    const element = document.createElement(name);
    Object.assign(element, attributes);
    element.append(...content);
    return element;
  }

  const clip = (value) => Math.min(Math.max(value, 0), 1);

  function draw(canvas, pixels, [h, w, channels], isInk) {
    const context = canvas.getContext("2d");
    const picture = context.createImageData(w, h);
    const byte = (value) => Math.round(255 * clip(value));
    for (let k = 0; k < h * w; k++) {
      const values = pixels.subarray(k * channels, (k + 1) * channels);
      const mean = values.reduce((sum, value) => sum + clip(value), 0) / channels;
      const colours = isInk ? [1 - mean, 1 - mean, 1 - mean] : values;
      for (let c = 0; c < 3; c++) picture.data[4 * k + c] = byte(colours[c]);
      picture.data[4 * k + 3] = 255;
    }
    context.putImageData(picture, 0, 0);
  }

  // The page compares its own decoder with the network's, as some arithmetic is not the same.
  function check(decode, { examples, expected }, note) {
    const theirs = Decoder.floats(expected);
    const ours = decode(examples[0].poses, examples[0].predicted);
    const differences = theirs.map((value, k) => Math.abs(clip(value) - clip(ours[k])));
    const largest = Math.max(...differences);
    const isSame = largest < 0.02;
    note.dataset.difference = String(largest);
    note.textContent = isSame
      ? `Decoded in this page; the network's own picture differs by ${largest.toFixed(4)} of 1 at most.`
      : `The pictures of this page are not the network's: they differ by up to ${largest.toFixed(2)} of 1.`;
    note.classList.toggle("warning", !isSame);
  }

  function start(data) {
    const root = document.getElementById("pose-study");
    const decode = Decoder.make(data.program);
    const [h, w] = data.shape;
    const original = make("img", { className: "pixels" });
    const canvas = make("canvas", { className: "pixels", width: w, height: h });
    canvas.setAttribute("role", "img");
    const example = make("select", {}, ...data.examples.map((each, k) =>
      make("option", { value: k, textContent: each.name })));
    const capsule = make("select", {}, ...data.classes.map((name, k) =>
      make("option", { value: k, textContent: name })));
    const reset = make("button", { type: "button", textContent: "Reset" });
    const sliders = data.examples[0].poses[0].map((_, dimension) => {
      const output = make("output");
      const input = make("input", {
        type: "range", min: -data.range, max: data.range, step: data.range / 50, value: 0,
      });
      input.addEventListener(data.slow ? "change" : "input", request);
      input.addEventListener("input", write);
      return { input, output, label: make("label", {}, `dim ${dimension} `, output, input) };
    });
    const note = make("p", { className: "note" });
    let isWaiting = false;

    function write() {
      sliders.forEach(({ input, output }) => {
        const value = Number(input.value);
        output.textContent = (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
      });
    }

    function show() {
      isWaiting = false;
      const { poses } = data.examples[example.value];
      const chosen = Number(capsule.value);
      const moved = poses.map((pose, k) => k !== chosen ? pose
        : pose.map((value, dimension) => value + Number(sliders[dimension].input.value)));
      draw(canvas, decode(moved, chosen), data.shape, data.ink);
      canvas.setAttribute("aria-label", `decoded from the capsule of ${data.classes[chosen]}`);
      canvas.dataset.drawn = String(Number(canvas.dataset.drawn || 0) + 1);
    }

    // At most once for each picture of the screen.
    function request() {
      if (isWaiting) return;
      isWaiting = true;
      window.requestAnimationFrame(show);
    }

    function put(value) {
      sliders.forEach(({ input }) => { input.value = value; });
      write();
      request();
    }

    function choose() {
      const { picture, name, predicted } = data.examples[example.value];
      original.src = picture;
      original.alt = `test image: ${name}`;
      capsule.value = predicted;
      put(0);
    }

    example.addEventListener("change", choose);
    capsule.addEventListener("change", request);
    reset.addEventListener("click", () => put(0));
    root.append(
      make("div", { className: "controls" },
        make("label", {}, "Image ", example), make("label", {}, "Capsule ", capsule), reset),
      make("div", { className: "study" },
        make("figure", {}, original, make("figcaption", { textContent: "test image" })),
        make("figure", {}, canvas, make("figcaption", { textContent: "decoded" })),
        make("div", { className: "sliders" }, ...sliders.map(({ label }) => label))),
      note,
    );
    choose();
    check(decode, data, note);
  }

  return { start };
})();
