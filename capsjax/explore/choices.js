// Buttons that choose: "choose" with {class: number} for a bar, {sample: number} for an image, and
// "more" for other images.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.class) trigger("choose", { class: Number(button.dataset.class) });
  else if (button.dataset.sample) trigger("choose", { sample: Number(button.dataset.sample) });
  else trigger("more");
});
