import { tag } from './core'

tag()
