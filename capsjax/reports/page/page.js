"use strict";
{
  const data = JSON.parse(document.getElementById("page-data").textContent);
  Tables.start();
  if (data.curves?.length) Curves.start(data.curves);
  if (data.poses) Poses.start(data.poses);
  // What is closed would be missing on paper.
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((each) => { each.open = true; });
  });
}
