import { useEffect, useState } from "./html.js";

/** A thing whose changes are watched. */
export class Observed {
  #watchers = new Set();

  watch(watcher) {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  changed() {
    for (const watcher of [...this.#watchers]) watcher();
  }
}

const PAUSE = 60; // ms between two drawings: fluent enough for text, and light on a fast stream

/** Draw the component again when `observed` changes, but not too often, and not at all in a hidden tab. */
export function useObserved(observed) {
  const [, draw] = useState(0);
  useEffect(() => {
    let frame = 0;
    let timer = 0;
    let drawn = 0;
    const now = (time) => {
      [frame, timer, drawn] = [0, 0, time];
      draw((count) => count + 1);
    };
    const later = () => {
      if (frame || timer) return;
      const wait = drawn + PAUSE - performance.now();
      if (wait > 0) timer = setTimeout(() => (frame = requestAnimationFrame(now)), wait);
      else frame = requestAnimationFrame(now);
    };
    const unwatch = observed.watch(later);
    later();
    return () => {
      unwatch();
      clearTimeout(timer);
      cancelAnimationFrame(frame);
    };
  }, [observed]);
  return observed;
}
