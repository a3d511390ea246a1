/** How the page fared: web vitals and errors. Nobody's doing, so neither ends a bounce. */
import { era, isOff, page, push } from './core'
import { cut, hidden, on } from './page'

const ERRORS_MAX = 10

interface Entry extends PerformanceEntry {
  value: number
  hadRecentInput: boolean
  interactionId: number
}

/** One event for each vital, when the page is first hidden. */
export const vitals = () => {
  if (isOff('vitals')) return
  const view = page
  const then = era
  const values: Record<string, number | undefined> = {}
  const interactions: Record<number, number> = {}
  let first = 0
  let last = 0
  let sum = 0
  const observers: [PerformanceObserver, (entry: Entry) => void][] = []
  const observe = (type: string, f: (entry: Entry) => void, more?: object) => {
    try {
      const observer = new PerformanceObserver((list) => (list.getEntries() as Entry[]).map(f))
      observer.observe({ type, buffered: true, ...more })
      observers.push([observer, f])
    } catch {}
  }
  const navigation = performance.getEntriesByType('navigation')[0] as PerformanceNavigationTiming & { activationStart?: number }
  /** A page that was rendered ahead begins when it is shown. */
  const since = (time: number) => Math.max(0, time - (navigation?.activationStart || 0))
  if (navigation?.responseStart) values.TTFB = since(navigation.responseStart)
  observe('paint', (entry) => {
    if (/^first-c/.test(entry.name)) values.FCP = since(entry.startTime)
  })
  observe('largest-contentful-paint', (entry) => {
    values.LCP = since(entry.startTime)
  })
  // The worst burst of shifts: a second between two at most, five seconds altogether.
  observe('layout-shift', (entry) => {
    values.CLS ||= 0
    if (entry.hadRecentInput) return
    const at = entry.startTime
    if (!(at - last < 1e3 && at - first < 5e3)) {
      first = at
      sum = 0
    }
    last = at
    sum += entry.value
    values.CLS = Math.max(values.CLS, sum)
  })
  const interaction = (entry: Entry) => {
    const id = entry.interactionId
    if (id) interactions[id] = Math.max(interactions[id] || 0, entry.duration)
  }
  observe('event', interaction, { durationThreshold: 16 })
  observe('first-input', interaction)

  let isSent = 0
  hidden(() => {
    if (isSent++ || then != era) return
    // Of the page as it was opened, and of whoever opened it; one that is left at once is counted after this.
    const { url, page_view_id, visitor_id, session_id, sequence, user_id } = view
    const who = session_id != null && { visitor_id, session_id, sequence, user_id }
    observers.map(([observer, f]) => (observer.takeRecords() as Entry[]).map(f))
    // The slowest, leaving out one of every fifty.
    const slowest = Object.values(interactions).sort((a, b) => b - a)
    values.INP = slowest[Math.floor(slowest.length / 50)]
    if (values.FCP != null) values.CLS ??= 0
    for (const label of Object.keys(values)) {
      const value = values[label]
      if (value != null) {
        push({
          type: 'event', name: 'web_vitals', interactive: false, label,
          url: url!, page_view_id: page_view_id!, ...(who as object),
          value: Math.round(value * 1e4) / 1e4,
        })
      }
    }
  })
}

export const errors = () => {
  if (isOff('errors')) return
  const seen = new Set<string>()
  const report = (error: unknown, message: string, source?: string, line?: number, column?: number) => {
    const { name, stack } = (error || {}) as Error
    // The first line of the stack that names a place.
    const frame = /(\S+?):(\d+):(\d+)\)?(\n|$)/.exec('' + stack) || []
    source ||= frame[1]?.replace(/^.*[(@]/, '')
    message = cut(message, 500)
    const key = message + source + line
    if (seen.has(key) || seen.size >= ERRORS_MAX) return
    seen.add(key)
    push({
      type: 'event', name: 'exception', interactive: false,
      properties: {
        type: name || 'Error', message, source: source && cut(source, 500), line: line || frame[2], column: column || frame[3],
        stack: stack && cut(stack, 2e3),
      },
    })
  }
  on<ErrorEvent>('error', (event) => {
    // One that has no message is an image's or a script's that did not load.
    if (event.message) report(event.error, event.message.replace(/^Uncaught (\w*Error: )?/, ''), event.filename, event.lineno, event.colno)
  })
  on<PromiseRejectionEvent>('unhandledrejection', ({ reason }) => report(reason, '' + (reason?.message || reason)))
}
