import { extend, tag } from './core'
import { parts } from './parts'

extend(parts)
tag()
