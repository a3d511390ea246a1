/** What everything here does with the page it stands in: it never throws into it, and never holds it up. */

export const w = window as Window & typeof globalThis
export const d = document

/** The same function, but what goes wrong in it stays in it. */
export const guard =
  <A extends unknown[]>(f: (...a: A) => void) =>
  (...a: A): void => {
    try {
      f(...a)
    } catch {}
  }

/** Listens, before the page's own listeners and without a say in what happens. */
export const on = <E extends Event>(target: EventTarget, type: string, f: (event: E) => void) =>
  target.addEventListener(type, guard(f) as EventListener, { capture: true, passive: true })

/** When the page is hidden or left; called before the core's own, so that what it adds leaves with the page. */
export const hidden = (f: () => void) => {
  on(w, 'pagehide', f)
  on(d, 'visibilitychange', () => d.hidden && f())
}

/** What the collector takes of an address. */
export const cut = (text: string) => text.slice(0, 4096)

let last = 0

/** A UUIDv7; those of one page follow each other. */
export const uuid = () => {
  let random: ArrayLike<number> = []
  let i = 0
  // Where `crypto` is missing or broken, less random is better than none.
  try {
    random = crypto.getRandomValues(new Uint8Array(18))
  } catch {}
  last = Math.max(last + 1, Date.now())
  return (
    last.toString(16).padStart(12, 0 as never).replace(/.{8}/, '$&-') +
    '-7xxx-8xxx-xxxxxxxxxxxx'.replace(/x/g, () => ((random[i++] ?? Math.random() * 16) & 15).toString(16))
  )
}
