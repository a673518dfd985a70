"use strict";
// The decoder of the network: the operations of capsjax/reports/page/decoder.py, on an array of
// numbers in the order (row, column, channel).
const Decoder = (() => {
  function bytesOf(text) {
    const characters = atob(text);
    const out = new Uint8Array(characters.length);
    for (let k = 0; k < out.length; k++) out[k] = characters.charCodeAt(k);
    return out;
  }

  const floats = (text) => new Float32Array(bytesOf(text).buffer);

  // Numbers of 16 bits: sign, five bits of exponent, ten of mantissa.
  const powers = Float64Array.from({ length: 32 }, (_, exponent) => 2 ** (exponent - 25));
  function halves(text) {
    const stored = new Uint16Array(bytesOf(text).buffer);
    const out = new Float32Array(stored.length);
    for (let k = 0; k < stored.length; k++) {
      const exponent = (stored[k] >> 10) & 31;
      const mantissa = stored[k] & 1023;
      const size = exponent ? (1024 + mantissa) * powers[exponent] : mantissa * powers[1];
      out[k] = stored[k] & 32768 ? -size : size;
    }
    return out;
  }

  function dense(x, { kernel, bias, shape: [, outputs] }) {
    const out = Float32Array.from(bias);
    for (let i = 0; i < x.length; i++) {
      if (x[i] === 0) continue;
      const row = i * outputs;
      for (let o = 0; o < outputs; o++) out[o] += x[i] * kernel[row + o];
    }
    return out;
  }

  // Stride 1, without padding; the kernel is (row, column, channel, feature).
  function conv(x, { kernel, bias, shape: [size, , channels, features] }, [h, w]) {
    const [rows, columns] = [h - size + 1, w - size + 1];
    const out = new Float32Array(rows * columns * features);
    for (let y = 0; y < rows; y++) {
      for (let z = 0; z < columns; z++) {
        const to = (y * columns + z) * features;
        out.set(bias, to);
        for (let i = 0; i < size; i++) {
          for (let j = 0; j < size; j++) {
            const from = ((y + i) * w + z + j) * channels;
            for (let c = 0; c < channels; c++) {
              const value = x[from + c];
              const weights = ((i * size + j) * channels + c) * features;
              for (let o = 0; o < features; o++) out[to + o] += value * kernel[weights + o];
            }
          }
        }
      }
    }
    return [out, [rows, columns, features]];
  }

  // Each pixel adds the kernel, times itself, to the larger image; the kernel is
  // (row, column, feature, channel).
  function transposed(x, { kernel, bias, stride, shape: [size, , features, channels] }, [h, w]) {
    const [rows, columns, before] = [stride * h, stride * w, (size - stride) / 2];
    const out = new Float32Array(rows * columns * features);
    for (let k = 0; k < out.length; k++) out[k] = bias[k % features];
    for (let y = 0; y < h; y++) {
      for (let z = 0; z < w; z++) {
        const from = (y * w + z) * channels;
        for (let i = 0; i < size; i++) {
          const row = stride * y + i - before;
          if (row < 0 || row >= rows) continue;
          for (let j = 0; j < size; j++) {
            const column = stride * z + j - before;
            if (column < 0 || column >= columns) continue;
            const to = (row * columns + column) * features;
            for (let o = 0; o < features; o++) {
              const weights = ((i * size + j) * features + o) * channels;
              let sum = 0;
              for (let c = 0; c < channels; c++) sum += x[from + c] * kernel[weights + c];
              out[to + o] += sum;
            }
          }
        }
      }
    }
    return [out, [rows, columns, features]];
  }

  // Twice as many rows and columns: each new pixel is three quarters of the nearest one and a
  // quarter of the next, which at the edge is the same.
  function double(x, [h, w, channels]) {
    const out = new Float32Array(4 * x.length);
    const neighbours = (k, count) => {
      const nearest = k >> 1;
      const next = k % 2 ? nearest + 1 : nearest - 1;
      return [nearest, Math.min(Math.max(next, 0), count - 1)];
    };
    for (let y = 0; y < 2 * h; y++) {
      const [row, nextRow] = neighbours(y, h);
      for (let z = 0; z < 2 * w; z++) {
        const [column, nextColumn] = neighbours(z, w);
        for (let c = 0; c < channels; c++) {
          const at = (i, j) => x[(i * w + j) * channels + c];
          out[(y * 2 * w + z) * channels + c] =
            0.75 * (0.75 * at(row, column) + 0.25 * at(row, nextColumn)) +
            0.25 * (0.75 * at(nextRow, column) + 0.25 * at(nextRow, nextColumn));
        }
      }
    }
    return [out, [2 * h, 2 * w, channels]];
  }

  const affine = (x, { scale, bias }) =>
    x.map((value, k) => value * scale[k % scale.length] + bias[k % bias.length]);

  function apply(step, x, shape) {
    switch (step.do) {
      case "dense": return [dense(x, step), shape];
      case "conv": return conv(x, step, shape);
      case "transposed": return transposed(x, step, shape);
      case "double": return double(x, shape);
      case "affine": return [affine(x, step), shape];
      case "relu": return [x.map((value) => Math.max(value, 0)), shape];
      case "leaky_relu": return [x.map((value) => (value < 0 ? step.slope * value : value)), shape];
      case "sigmoid": return [x.map((value) => 1 / (1 + Math.exp(-value))), shape];
      case "shape": return [x, step.shape];
      default: throw new Error(`no operation ${step.do}`);
    }
  }

  // Read the weights once, and return a function of the pose of each capsule, and which of them is
  // decoded, that returns the pixels.
  function make({ takes, steps }) {
    const read = steps.map((step) => ({
      ...step,
      ...(step.kernel && { kernel: halves(step.kernel) }),
      ...(step.bias && { bias: floats(step.bias) }),
      ...(step.scale && { scale: floats(step.scale) }),
    }));
    return (poses, capsule) => {
      let x = Float32Array.from(poses[capsule]);
      if (takes === "masked") {
        const all = new Float32Array(poses.length * x.length);
        all.set(x, capsule * x.length);
        x = all;
      }
      let shape = null;
      for (const step of read) [x, shape] = apply(step, x, shape);
      return x;
    };
  }

  return { make, floats };
})();
