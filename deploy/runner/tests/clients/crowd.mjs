// A store, or an address, at its rate: what a client is told then, and what it does with it.

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/// Others who send to a store, and leave nothing of its rate to anybody. It is at its rate when this returns, and stays so
/// until what this returns is called.
export async function crowd(host, key) {
  let gone = false
  const one = async () => {
    const body = JSON.stringify({ type: 'event', name: 'crowd' })
    const { status } = await fetch(`http://${host}/v1/collect?key=${key}`, { method: 'POST', body })
    if (status !== 202 && status !== 429) throw new Error(`the crowd got ${status}`)
    return status
  }
  const isOver = async () => (await Promise.all([one(), one(), one()])).includes(429)
  while (!(await isOver()));
  const crowding = (async () => {
    while (!gone) await Promise.all([isOver(), pause(200)])
  })()
  return () => {
    gone = true
    return crowding
  }
}

/// Waits until something holds.
export async function until(what, holds) {
  const deadline = Date.now() + 120_000
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`in vain waited for: ${what}`)
    await pause(20)
  }
}

/// The requests of a client that repeats: each is told with the numbers of the events in it, and what it was answered.
export class Tries {
  #tries = []

  constructor(refusal) {
    this.refusal = refusal
  }

  /// `began` and `ended` are milliseconds of one clock; `wait` is `Retry-After`.
  add(numbers, { status, wait, began, ended }) {
    this.#tries.push({ numbers, status, wait: Number(wait ?? 0) * 1000, began, ended })
  }

  /// The same of a page's requests; `numbers` finds those of the events in a request, undefined for an event that was not
  /// given here.
  watch(page, numbers) {
    page.on('response', (response) => {
      const request = response.request()
      const found = numbers(request).filter((number) => number !== undefined)
      if (found.length === 0) return
      const { startTime, responseStart } = request.timing()
      this.add(found, {
        status: response.status(), wait: response.headers()['retry-after'], began: startTime, ended: startTime + responseStart,
      })
    })
  }

  get isRefused() {
    return this.#tries.some(({ status }) => status === this.refusal)
  }

  /// Gives the client events, by number, until one of them is refused: a machine that stands still for a while may have
  /// left a part of the rate to it. Returns how many were given.
  async give(event) {
    let given = 0
    while (!this.isRefused) {
      const before = this.#tries.length
      for (let more = 0; more < 5; more += 1) await event((given += 1))
      await until('an answer', () => this.#tries.length > before)
    }
    return given
  }

  /// Milliseconds that it was told last to wait for.
  get wait() {
    return this.#tries.at(-1).wait
  }

  /// Whether so many events were accepted.
  has(given) {
    const accepted = this.#tries.filter(({ status }) => status === 200).flatMap(({ numbers }) => numbers)
    return accepted.length >= given
  }

  /// What was answered; and of the events in refused requests, how many came again before the time that they were told.
  outcome(given) {
    const early = this.#tries.filter(({ numbers, status, wait, ended }) => status === this.refusal && this.#tries.some((next) =>
      // The clock of requests is the time of day, to the millisecond.
      next.began > ended && next.began < ended + wait - 100 && next.numbers.some((number) => numbers.includes(number))))
    const waits = this.#tries.filter(({ status }) => status === this.refusal).map(({ wait }) => wait)
    return { given, statuses: [...new Set(this.#tries.map(({ status }) => status))].sort(), waits, early: early.length }
  }
}

/// What a client that repeats nothing is answered when the store is at its rate, and when it is not any more; `send` has it
/// send an event and tells the answer's status.
export async function once(host, key, send) {
  let status
  const isRefused = async () => (status = await send()) >= 400
  const leave = await crowd(host, key)
  await until('a refusal', isRefused)
  const refused = status
  await leave()
  await until('an event that is accepted', async () => !(await isRefused()))
  return { refused, then: status }
}

/// The status of the answer to what something done in a page sends to this path.
export async function answered(page, path, act) {
  const [response] = await Promise.all([page.waitForResponse((response) => response.url().includes(path)), act()])
  return response.status()
}
