import type { Millrace, Options } from '../t'
import { begin, extend } from './core'
import { parts } from './parts'

export const startCore = (options: Options) => begin(options, []) as Millrace

export const start = (options: Options) => {
  extend(parts)
  return startCore(options)
}
