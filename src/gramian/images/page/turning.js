(() => {
  "use strict";
  const [turner, canvas, angle, degrees] = ["turner", "atom", "angle", "degrees"].map((id) => document.getElementById(id));
  const choices = [...document.querySelectorAll("#strips input")];
  const pen = canvas.getContext("2d");

  // Each group brings the pixels of its two directions, one after the other, as signed bytes.
  const bytes = (text) => Int8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const atoms = new Map(choices.map((choice) => [choice, bytes(choice.dataset.atoms)]));

  const draw = () => {
    const choice = choices.find((each) => each.checked) || choices[0];
    const pixels = atoms.get(choice);
    const half = pixels.length / 2;
    const theta = (angle.valueAsNumber * Math.PI) / 180;
    const picture = pen.createImageData(canvas.width, canvas.height);
    for (let place = 0; place < half; place += 1) {
      const value = Math.cos(theta) * pixels[place] + Math.sin(theta) * pixels[half + place];
      picture.data.fill(128 + value, 4 * place, 4 * place + 3);
      picture.data[4 * place + 3] = 255;
    }
    pen.putImageData(picture, 0, 0);
    choice.checked = true;
    degrees.textContent = angle.value + "°";
    angle.setAttribute("aria-valuetext", angle.value + " degrees");
    canvas.setAttribute("aria-label", "group " + choice.value + " with its code turned by " + angle.value + " degrees");
  };

  angle.addEventListener("input", draw);
  choices.forEach((choice) => {
    choice.disabled = false;
    choice.addEventListener("change", draw);
  });
  turner.hidden = false;
  draw();
})();
