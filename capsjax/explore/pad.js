// The pad: draw with a pointer, or take a picture from a file, by a button or dropped onto it.
// Events: "draw" and "take" with {picture: data URI}, "wipe". The value that Python sets is a
// picture to show, {"picture": data URI}.
const canvas = element.querySelector("canvas");
const file = element.querySelector("input[type=file]");
const colour = element.querySelector("input[type=color]");
const pen = canvas.getContext("2d");
const pause = 60; // milliseconds between two pictures of a line that is being drawn
// Milliseconds after which a finished line is sent once more: while the first event of a server is
// answered, which takes longest, Gradio can lose the last of those that follow.
const again = 1000;
let last = null;
let sent = 0;
let waiting = null;
let changes = 0; // so that what comes late does not undo what is newer

function wipe() {
  changes += 1;
  pen.fillStyle = "black";
  pen.fillRect(0, 0, canvas.width, canvas.height);
}

function send() {
  clearTimeout(waiting);
  waiting = null;
  sent = performance.now();
  trigger("draw", { picture: canvas.toDataURL("image/png") });
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [
    ((event.clientX - box.left) / box.width) * canvas.width,
    ((event.clientY - box.top) / box.height) * canvas.height,
  ];
}

function stroke(event) {
  changes += 1;
  const next = place(event);
  pen.strokeStyle = colour ? colour.value : "white";
  pen.lineWidth = canvas.width / 12;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(...(last || next));
  pen.lineTo(...next);
  pen.stroke();
  last = next;
  if (waiting === null) waiting = setTimeout(send, Math.max(0, pause - (performance.now() - sent)));
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  last = null;
  stroke(event);
});
canvas.addEventListener("pointermove", (event) => {
  if (last !== null && event.buttons) stroke(event);
});
canvas.addEventListener("pointerup", () => {
  if (last === null) return;
  last = null;
  send();
  const change = changes;
  setTimeout(() => change === changes && send(), again);
});

function take(chosen) {
  if (!chosen) return;
  changes += 1;
  if (chosen.size > Number(canvas.dataset.mostBytes)) {
    trigger("take", { picture: "", size: chosen.size });
    return;
  }
  const reader = new FileReader();
  reader.onload = () => trigger("take", { picture: reader.result, size: chosen.size });
  reader.readAsDataURL(chosen);
}

file.addEventListener("change", () => {
  take(file.files[0]);
  file.value = ""; // so that the same file can be chosen again
});
element.querySelector(".open").addEventListener("click", () => file.click());
element.querySelector(".wipe").addEventListener("click", () => {
  wipe();
  trigger("wipe");
});
for (const name of ["dragover", "dragleave", "drop"]) {
  canvas.addEventListener(name, (event) => {
    event.preventDefault();
    element.querySelector(".pad").classList.toggle("over", name === "dragover");
    if (name === "drop") take(event.dataTransfer.files[0]);
  });
}

function show() {
  const { picture } = JSON.parse(props.value || "{}");
  const change = (changes += 1);
  if (!picture) {
    wipe();
    return;
  }
  const image = new Image();
  image.onload = () => {
    if (change !== changes) return;
    pen.imageSmoothingEnabled = false;
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  };
  image.src = picture;
}

watch("value", show);
show();
