// Calls to the coordinator that served the page.

async function answer(reply) {
  if (reply.status === 401) location.reload();
  if (!reply.ok) throw new Error((await reply.text()).trim() || `the coordinator answers ${reply.status}`);
  return reply;
}

export const get = async (path) => (await answer(await fetch(path))).json();

/** Shows a token; the page is loaded anew when it is good. Gives what is wrong with it. */
export async function login(token) {
  const reply = await fetch("login", { method: "POST", body: token });
  if (reply.ok) location.reload();
  return reply.ok ? "" : reply.text();
}

/** The header tells it from what another site's page could send. */
export const post = async (path, body) => answer(await fetch(path, {
  method: "POST",
  headers: { "content-type": "application/json", "x-quern-page": "1" },
  body: JSON.stringify(body),
}));
