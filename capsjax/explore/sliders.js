// The sliders of a pose: "move" with {class: number, pose: numbers} whenever one moves, and when the
// button takes all of them back to the pose of the image.
function show(slider) {
  const value = Number(slider.value);
  const sign = value < 0 ? "-" : "+";
  slider.closest(".dimension").querySelector("output").textContent =
    sign + Math.abs(value).toFixed(2);
}

function send() {
  const sliders = [...element.querySelectorAll("input[type=range]")];
  // A slider that was not moved stands for the number itself, which has more digits.
  const pose = sliders.map((slider) =>
    Number(slider.dataset.moved ? slider.value : slider.dataset.origin)
  );
  const label = Number(element.querySelector("[data-class]").dataset.class);
  trigger("move", { class: label, pose });
}

element.addEventListener("input", (event) => {
  event.target.dataset.moved = "yes";
  // As an attribute too: Gradio compares these when the pose of another image comes.
  event.target.setAttribute("value", event.target.value);
  show(event.target);
  send();
});

element.addEventListener("click", (event) => {
  if (!event.target.closest(".back")) return;
  for (const slider of element.querySelectorAll("input[type=range]")) {
    delete slider.dataset.moved;
    slider.value = Number(slider.dataset.origin).toFixed(2);
    slider.setAttribute("value", slider.value);
    show(slider);
  }
  send();
});
