// What the page says to the vSensor. The session's cookie goes by itself, and no script can read it; what changes
// something shows the session's CSRF token besides, which no other site can.

let csrf = "";
const REPLY_MS = 30_000; // as `ossensor antigena` waits; without it a browser waits for a dead connection for many minutes

export class Refused extends Error {
  constructor(status, faults) {
    super(faults.join("; "));
    this.status = status;
    this.faults = faults;
  }
}

/** The decoded answer. Throws Refused, with all faults, for any status but 2xx; status 0: the vSensor is not reached. */
export async function ask(method, path, given) {
  const headers = method === "GET" ? {} : { "X-CSRF-Token": csrf };
  if (given !== undefined) headers["Content-Type"] = "application/json";
  const shown = csrf;
  let reply, content;
  try {
    const body = given === undefined ? undefined : JSON.stringify(given);
    const signal = AbortSignal.timeout(REPLY_MS);
    reply = await fetch(path, { method, headers, body, credentials: "same-origin", redirect: "error", signal });
    content = decoded(await reply.text());
  } catch {
    throw new Refused(0, ["The vSensor cannot be reached."]);
  }
  if (reply.ok && content !== undefined) return content;
  // Another tab has logged in anew, and the session that we share is another.
  if (reply.status === 403 && method !== "GET" && (await session()) && csrf !== shown) return ask(method, path, given);
  const wait_s = reply.headers.get("Retry-After");
  const why = reply.status === 429 ? `Too many wrong tokens from here; try again in ${wait_s} s.` : `Status ${reply.status}`;
  throw new Refused(reply.status, content?.faults ?? [why]);
}

/** The value; undefined for what is no JSON, such as a balancer's own words. */
function decoded(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return undefined;
  }
}

const remember = (session) => {
  csrf = session?.csrf ?? "";
  return session;
};

/** The session that there is, or null. */
export const session = async () => remember(await ask("GET", "/page/session"));

/** Lets it last longer: its person has just done something. */
export const renew = async () => remember(await ask("POST", "/page/session", {}));

export const logIn = async (token) => remember(await ask("POST", "/page/login", { token }));

export async function logOut() {
  await ask("DELETE", "/page/session");
  remember(null);
}
