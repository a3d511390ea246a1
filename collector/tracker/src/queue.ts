/**
 * Events on their way. Each is kept under a key of its own, so that tabs that share the storage never overwrite what
 * another one added; its name ends with its id, which begins with its time, so that names sort by age. It goes when the
 * collector has answered for it. A page that is left cannot hear the answer: the next page sends again, and the
 * collector counts an event_id once.
 */
import { guard, on, w } from './page'

/** Events kept; the oldest go first. */
const EVENTS_MAX = 500
/** An event as long as this the collector would refuse. */
const EVENT_LENGTH_MAX = 6e4
/** A letter takes three bytes at most, and browsers let 64 KB leave with a page. */
const BODY_LENGTH_MAX = 2e4
const GATHER_MS = 300
const ANSWER_MS = 3e4
/** And up to twice as long, so that not all pages come at once. */
const RETRY_MS = 500
const RETRY_MS_MAX = 3e4

/** Where everything of this key is kept; none where nothing may be, or can be. */
export let storage: Storage | undefined
/** Names in the storage: of the visitor, and with a dot and an id behind it of events. */
export let prefix = ''
/** What the storage does not take. */
let memory: Record<string, string> = {}
const flying: Record<string, unknown> = {}
let address = ''
let tries = 0
/** While it rests after failures, nothing is sent but from a page that is left. */
let rests = 0
let timer = 0

const names = (start: string) =>
  Object.keys(storage || 0)
    .concat(Object.keys(memory))
    .filter((name) => !name.indexOf(start))
    .sort()

const drop = guard((name: string) => {
  delete memory[name]
  storage?.removeItem(name)
})

const later = (ms: number) => {
  timer ||= setTimeout(flush, ms) as unknown as number
}

/** Sends what waits; of a page that is left in at most this many requests at once. */
export const flush = async (leaving?: number) => {
  if (rests && !leaving) return
  const batch: string[] = []
  let body = ''
  // Seconds until what was not taken is sent again; below zero: it was taken.
  let wait = 0
  try {
    timer = 0
    const waiting = names(prefix + '.')
    waiting.splice(0, waiting.length - EVENTS_MAX).map(drop)
    for (const name of waiting) {
      const event = !flying[name] && (memory[name] || storage!.getItem(name))
      if (event && (!body || body.length + event.length < BODY_LENGTH_MAX)) {
        body += (body && ',') + event
        batch.push(name)
      }
    }
    if (!body) return
    batch.map((name) => (flying[name] = 1))
    if (leaving! > 1) flush(leaving! - 1)
    const context = {
      language: navigator.language,
      timezone: w.Intl?.DateTimeFormat().resolvedOptions().timeZone,
      screen_width: screen.width,
      screen_height: screen.height,
      webdriver: !!navigator.webdriver,
    }
    body = `{"sent_at":${Date.now()},"context":${JSON.stringify(context)},"events":[${body}]}`
    const answer = await (leaving && !('keepalive' in Request.prototype)
      ? // Nobody hears what becomes of it: it stays in the queue.
        (navigator.sendBeacon(address, body) as never)
      : fetch(address, {
          method: 'POST',
          body,
          // A longer body may not leave with the page.
          keepalive: body.length < BODY_LENGTH_MAX + 1e3,
          credentials: 'omit',
          signal: AbortSignal.timeout?.(ANSWER_MS),
        } as RequestInit))
    // What is not read to its end counts against what may leave with a page.
    await answer.text()
    // Stored, or refused for good?
    wait = /2..|40[013]|41[35]|422/.test(answer.status as never) ? -1 : +answer.headers.get('retry-after')! || 0
  } catch {}
  batch.map((name) => delete flying[name])
  if (wait < 0) {
    tries = 0
    batch.map(drop)
    later(0)
  } else {
    rests++
    setTimeout(() => {
      rests--
      flush()
    }, wait * 1e3 + Math.min(RETRY_MS * 2 ** tries++, RETRY_MS_MAX) * (1 + Math.random()))
  }
}

/** Keeps an event until it is answered for. */
export const add = (id: string, event: object) => {
  const text = JSON.stringify(event)
  if (text.length < EVENT_LENGTH_MAX) {
    try {
      storage!.setItem(prefix + '.' + id, text)
    } catch {
      memory[prefix + '.' + id] = text
    }
    later(GATHER_MS)
  }
}

/** From here on things are kept in the storage, or what stands there is forgotten. */
export const keep = (full: boolean) => {
  try {
    storage = localStorage
    if (!full) {
      names(prefix).map(drop)
      lose()
    }
  } catch {
    lose()
  }
}

/** The storage turned out not to work. */
export const lose = () => {
  storage = undefined
}

export const open = (to: string, key: string) => {
  address = to + '?key=' + key
  prefix = 'mr.' + key
  // As if the page was left: whether it rests or not.
  on(w, 'online', flush as never)
}
