"use strict";
const form = document.querySelector("form");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const reply = await fetch("login", { method: "POST", body: form.querySelector("input").value });
  if (reply.ok) return location.reload();
  form.querySelector("p").textContent = await reply.text();
});
