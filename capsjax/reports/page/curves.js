"use strict";
// Learning curves: a panel for each kind of number, with the values at the pointer or, by the arrow
// keys, at any epoch.
const Curves = (() => {
  const [WIDTH, HEIGHT] = [460, 250];
  const AREA = { left: 66, right: WIDTH - 12, top: 12, bottom: HEIGHT - 34 };
  const MOST_TICKS = 6;

  function make(name, attributes = {}, text = "") {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
    element.textContent = text;
    return element;
  }

  const format = (value) => String(Number(value.toPrecision(4)));

  // More digits, as neighbours may differ in the fifth alone; and few characters, to fit the margin.
  function formatTick(value) {
    const rounded = Number(value.toPrecision(7));
    const isSmall = rounded !== 0 && Math.abs(rounded) < 1e-3;
    return isSmall ? rounded.toExponential() : String(rounded);
  }

  // 1, 2 or 5 times a power of ten, so that there are a few of them.
  function ticksOf(low, high) {
    const rough = (high - low) / (MOST_TICKS - 1) || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((each) => each * power >= 0.999 * rough);
    const first = Math.ceil(low / step - 1e-9);
    const count = Math.floor(high / step + 1e-9) - first + 1;
    return Array.from({ length: count }, (_, k) => Number(((first + k) * step).toPrecision(12)));
  }

  function logTicksOf(low, high) {
    const ticks = [];
    for (let k = Math.floor(Math.log10(low)); 10 ** k <= high; k++) {
      ticks.push(...[1, 2, 5].map((each) => Number((each * 10 ** k).toPrecision(3))));
    }
    const inside = ticks.filter((each) => each >= low && each <= high);
    if (inside.length < 2) return ticksOf(low, high).filter((each) => each > 0);
    const step = Math.ceil(inside.length / MOST_TICKS);
    return inside.filter((_, k) => k % step === 0);
  }

  function scaleOf(values, isLog, [from, to], headroom) {
    const shown = isLog ? Math.log10 : (value) => value;
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (low === high) [low, high] = isLog ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
    const room = headroom * (shown(high) - shown(low));
    const [a, b] = [shown(low) - room, shown(high) + room];
    if (isLog) [low, high] = [10 ** a, 10 ** b];
    else [low, high] = [a, b];
    const ticks = isLog ? logTicksOf(low, high) : ticksOf(low, high);
    return { ticks, at: (value) => from + ((shown(value) - a) / (b - a)) * (to - from) };
  }

  function axes(svg, x, y) {
    const { left, right, top, bottom } = AREA;
    for (const tick of y.ticks) {
      const at = y.at(tick);
      svg.append(make("line", { x1: left, x2: right, y1: at, y2: at, class: "grid" }));
      svg.append(make("text", { x: left - 6, y: at + 4, class: "tick end" }, formatTick(tick)));
    }
    for (const tick of x.ticks) {
      const at = x.at(tick);
      svg.append(make("line", { x1: at, x2: at, y1: top, y2: bottom, class: "grid" }));
      svg.append(make("text", { x: at, y: bottom + 15, class: "tick middle" }, formatTick(tick)));
    }
    const middle = (left + right) / 2;
    svg.append(make("text", { x: middle, y: HEIGHT - 3, class: "tick middle" }, "epoch"));
  }

  function line(svg, { name, points }, x, y) {
    const places = points.map(([epoch, value]) => `${x.at(epoch).toFixed(2)},${y.at(value).toFixed(2)}`);
    svg.append(make("polyline", { points: places.join(" "), class: `curve ${name}` }));
    if (points.length > 40) return;
    for (const place of places) {
      const [cx, cy] = place.split(",");
      svg.append(make("circle", { cx, cy, r: 2, class: `dot ${name}` }));
    }
  }

  const nearest = (points, epoch) => points.reduce((best, each) =>
    Math.abs(each[0] - epoch) < Math.abs(best[0] - epoch) ? each : best);

  // A line at an epoch, and below the panel the values there; without one, the last values.
  function follow(svg, panel, x, caption) {
    const epochs = [...new Set(panel.lines.flatMap(({ points }) => points.map(([e]) => e)))];
    epochs.sort((a, b) => a - b);
    const { left, right, top, bottom } = AREA;
    const marker = make("line", { y1: top, y2: bottom, class: "marker" });
    svg.append(marker);
    let place = epochs.length - 1;

    function tell(epoch) {
      const values = panel.lines.map(({ name, points }) => {
        const [at, value] = nearest(points, epoch);
        return `${name} ${format(value)}${at === epoch ? "" : ` (epoch ${format(at)})`}`;
      });
      caption.textContent = `${panel.label}, epoch ${format(epoch)}: ${values.join(", ")}`;
    }

    function move(to) {
      place = Math.min(Math.max(to, 0), epochs.length - 1);
      const at = x.at(epochs[place]);
      marker.setAttribute("x1", at);
      marker.setAttribute("x2", at);
      marker.setAttribute("visibility", "visible");
      tell(epochs[place]);
    }

    function leave() {
      marker.setAttribute("visibility", "hidden");
      place = epochs.length - 1;
      tell(epochs[place]);
    }

    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const at = ((event.clientX - box.left) / box.width) * WIDTH;
      const [first, last] = [epochs[0], epochs[epochs.length - 1]];
      const epoch = first + ((at - left) / (right - left)) * (last - first);
      move(epochs.indexOf(nearest(epochs.map((each) => [each]), epoch)[0]));
    });
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("blur", leave);
    svg.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -epochs.length, End: epochs.length };
      if (!(event.key in steps)) return;
      event.preventDefault();
      move(place + steps[event.key]);
    });
    leave();
  }

  function draw(panel) {
    const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: 0 });
    svg.setAttribute("aria-label", `${panel.label} over epochs`);
    const points = panel.lines.flatMap((each) => each.points);
    const values = points.map(([, value]) => value);
    const isLog = panel.log && Math.min(...values) > 0;
    const x = scaleOf(points.map(([epoch]) => epoch), false, [AREA.left, AREA.right], 0);
    const y = scaleOf(values, isLog, [AREA.bottom, AREA.top], 0.05);
    axes(svg, x, y);
    panel.lines.forEach((each) => line(svg, each, x, y));
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.setAttribute("aria-live", "polite");
    figure.append(svg, caption);
    follow(svg, panel, x, caption);
    return figure;
  }

  function start(panels) {
    document.getElementById("panels").append(...panels.map(draw));
  }

  return { start };
})();
