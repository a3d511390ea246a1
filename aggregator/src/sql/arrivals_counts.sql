-- Rows of a lane by stretches of `width` offsets, from an offset up to another that is not included.
SELECT toUInt64(intDiv(_offset - {from:UInt64}, {width:UInt64})) AS stretch, toUInt64(count()) AS rows
FROM {table:Identifier}
WHERE _topic = {topic:String} AND _partition = {partition:UInt32}
  AND _offset >= {from:UInt64} AND _offset < {to:UInt64}
GROUP BY stretch
ORDER BY stretch
