/**
 * Events on their way. Each is kept under a key of its own, so that tabs that share the storage never overwrite what
 * another one added; its name ends with its id, which begins with its time, so that names sort by age. It goes when the
 * collector has answered for it. A page that is left cannot hear the answer: the next page sends again, and the
 * collector counts an event_id once. What is too much at once for the collector, or a proxy before it (413), is sent in
 * halves, the older one first, down to one event; that one is given up when it is too much alone.
 */
import { json, parse } from './json'
import { on, uuid, w } from './page'

/** Events kept; the oldest go first. */
const EVENTS_MAX = 500
/** An event as long as this the collector would refuse. */
const EVENT_LENGTH_MAX = 6e4
/** A letter takes three bytes at most, and browsers let 64 KB leave with a page. */
const BODY_LENGTH_MAX = 2e4
/** So old may an event become while the collector does not know its key: one that is new, or was exchanged, it soon does. */
const UNKNOWN_KEY_MS = 864e5
const GATHER_MS = 300
const ANSWER_MS = 3e4
/** And up to twice as long, so that not all pages come at once. */
const RETRY_S = 0.5
const RETRY_S_MAX = 30

/** Where everything of this key is kept; none where nothing may be, or can be. */
export let storage: Storage | undefined
/** Names in the storage: of the visitor, and with a dot and an id behind it of events. */
export let prefix = ''
/** What the storage does not take. */
let memory: Record<string, string> = {}
const flying: Record<string, unknown> = {}
let address = ''
let tries = 0
/** Less than the most where something on the way takes less. */
let room = BODY_LENGTH_MAX
let isTold = 0
/** The collector did not know the key. */
let isUnknown = false
/** While an answer is awaited, or after a failure, nothing is sent but from a page that is left; so what is older goes first. */
let rests = 0
let timer = 0

const names = () =>
  Object.keys(storage || 0)
    .concat(Object.keys(memory))
    .filter((name) => !name.indexOf(prefix + '.'))
    .sort()

const drop = (name: string) => {
  delete memory[name]
  delete storage?.[name]
}

/** Sends what waits; of a page that is left in at most this many requests at once. */
export const flush = async (leaving?: number) => {
  if (rests && !leaving) return
  rests++
  timer = 0
  const batch: string[] = []
  let body = ''
  // Seconds until what was not taken is sent again.
  let wait = 0
  try {
    const waiting = names()
    waiting.slice(0, -EVENTS_MAX).map(drop)
    for (const name of waiting) {
      if (!flying[name]) {
        const event = memory[name] || storage![name]
        if (body && body.length + event?.length >= room) break
        // One that is none any more would take those beside it along.
        const { type, timestamp } = parse(event)
        if (type && !(isUnknown && Date.now() - timestamp > UNKNOWN_KEY_MS)) {
          body += (body && ',') + event
          flying[name] = batch.push(name)
        } else drop(name)
      }
    }
    if (!body) return rests-- as never
    if (leaving! > 1) flush(leaving! - 1)
    const request = `{"sent_at":${Date.now()},"context":${json({
      language: navigator.language,
      timezone: w.Intl?.DateTimeFormat().resolvedOptions().timeZone,
      screen_width: screen.width,
      screen_height: screen.height,
      webdriver: navigator.webdriver,
    })},"events":[${body}]}`
    const answer = await (leaving && !('keepalive' in Request.prototype)
      ? // Nobody hears what becomes of it: it stays in the queue.
        (navigator.sendBeacon(address, request) as never)
      : fetch(address, {
          __proto__: null,
          method: 'POST',
          body: request,
          // A longer body may not leave with the page.
          keepalive: request.length < BODY_LENGTH_MAX + 1e3,
          credentials: 'omit',
          signal: AbortSignal.timeout?.(ANSWER_MS),
        } as RequestInit))
    // What is not read to its end counts against what may leave with a page.
    await answer.text()
    const status = answer.status
    if ((isUnknown = status == 401) && !isTold++) console.warn(address, status)
    wait = (answer.headers.get('retry-after') as any) | 0
    // Too much at once: half of it may pass.
    if (status == 413 && batch[1]) room = body.length / 2
    else if (/2..|40[03]|41[35]|422/.test(status as never)) {
      // Stored, or refused for good.
      batch.map(drop)
      // Those beside it may not have been too many.
      if (status == 413) room = BODY_LENGTH_MAX
    } else throw 0
    tries = 0
  } catch {
    wait += Math.min(RETRY_S * 2 ** tries++, RETRY_S_MAX) * (1 + Math.random())
  }
  batch.map((name) => delete flying[name])
  setTimeout(() => {
    rests--
    flush()
  }, wait * 1e3)
}

/** Keeps an event until it is answered for. */
export const add = (event: object) => {
  const event_id = uuid()
  const text = json({ ...event, event_id })
  if (text.length < EVENT_LENGTH_MAX) {
    try {
      storage![prefix + '.' + event_id] = text
    } catch {
      memory[prefix + '.' + event_id] = text
    }
    timer ||= setTimeout(flush, GATHER_MS) as unknown as number
  }
}

/** From here on things are kept in the storage, or what stands there is forgotten. */
export const keep = (full: boolean) => {
  try {
    storage = localStorage
    if (full) return
    names().concat(prefix).map(drop)
  } catch {}
  storage = undefined
}

export const open = (to: string, key: string) => {
  address = to + '?key=' + key
  prefix = 'mr.' + key
  // As if the page was left: whether it rests or not.
  on('online', flush as never)
}
