// The form that asks for a token.

import { login } from "./api.js";

const form = document.querySelector("form");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  form.querySelector("p").textContent = await login(form.querySelector("input").value);
});
