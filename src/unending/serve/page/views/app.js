import { connection } from "../app/connection.js";
import { html, useEffect, useRef } from "../app/html.js";
import { reach } from "../app/http.js";
import { useObserved } from "../app/observed.js";
import { route } from "../app/route.js";
import { theme } from "../app/theme.js";
import { token } from "../app/token.js";
import { Home } from "./home.js";
import { Session } from "./session.js";
import { TokenDialog } from "./token_dialog.js";

const HALF = "M10 3a7 7 0 0 1 0 14z";
const WHOLE = "M10 3a7 7 0 0 1 0 14a7 7 0 0 1 0-14z";

function linkState() {
  if (token.wanted) return ["refused", "token needed"];
  if (!reach.ok) return ["lost", "server unreachable, trying again"];
  if (connection.state === "waiting") return ["lost", "connection lost, trying again"];
  if (connection.state === "connecting") return ["lost", "connecting"];
  return ["ok", "connected"];
}

function LinkState() {
  useObserved(reach);
  useObserved(connection);
  useObserved(token);
  const [kind, text] = linkState();
  return html`<p class="link-state ${kind}" role="status">${text}</p>`;
}

function ThemeButton() {
  useObserved(theme);
  const says = `Theme: ${theme.choice}`;
  return html`
    <button class="theme" onClick=${() => theme.turn()} title=${says} aria-label=${says}>
      <svg viewBox="0 0 20 20" width="20" height="20" aria-hidden="true">
        <circle cx="10" cy="10" r="7" />
        ${theme.choice !== "light" && html`<path d=${theme.choice === "dark" ? WHOLE : HALF} />`}
      </svg>
    </button>
  `;
}

function Header() {
  return html`
    <header class="top">
      <a class="brand" href="#/" aria-label="unending, home">
        <img src="page/icon.svg" alt="" width="26" height="26" />
        <span>unending</span>
      </a>
      <${LinkState} />
      <${ThemeButton} />
    </header>
  `;
}

export function App() {
  useObserved(route);
  const main = useRef(null);
  const first = useRef(true);
  const opened = route.session;
  const place = opened ? `${opened.system}/${opened.name}` : "";

  useEffect(() => {
    document.title = opened ? `${opened.name} · unending` : "unending";
    if (!first.current) main.current.querySelector("h1")?.focus();
    first.current = false;
  }, [place]);

  const skip = (event) => {
    event.preventDefault();
    main.current.focus();
  };
  return html`
    <a class="skip" href="#main" onClick=${skip}>Skip to the content</a>
    <${Header} />
    <main id="main" tabindex="-1" ref=${main}>
      ${opened ? html`<${Session} key=${place} ...${opened} />` : html`<${Home} />`}
    </main>
    <${TokenDialog} />
  `;
}
