import { useEffect, useState } from "./html.js";
import { token } from "./token.js";

/**
 * What `ask(signal)` answers, asked again every `interval` milliseconds while the tab is visible.
 * `value` stays the last answer when a later one fails; `error` is then what went wrong.
 */
export function usePolling(ask, interval, inputs = []) {
  const [answer, setAnswer] = useState({ value: null, error: null });
  useEffect(() => {
    let timer = 0;
    let turn = null;
    setAnswer({ value: null, error: null });

    async function poll() {
      clearTimeout(timer);
      turn?.abort();
      const mine = (turn = new AbortController());
      if (document.hidden) return;
      try {
        const value = await ask(mine.signal);
        if (!mine.signal.aborted) setAnswer({ value, error: null });
      } catch (error) {
        if (mine.signal.aborted) return;
        setAnswer((before) => ({ value: before.value, error }));
      }
      if (!mine.signal.aborted && interval) timer = setTimeout(poll, interval);
    }

    poll();
    document.addEventListener("visibilitychange", poll);
    const unwatch = token.watch(poll);
    return () => {
      clearTimeout(timer);
      turn?.abort();
      document.removeEventListener("visibilitychange", poll);
      unwatch();
    };
  }, inputs);
  return answer;
}
