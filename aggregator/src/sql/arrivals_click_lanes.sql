-- How far each partition has come: of those known when `known` is 1, else of all others.
SELECT toString(_topic) AS topic, toUInt32(_partition) AS partition, toUInt64(max(_offset)) AS last
FROM clicks
WHERE has({lanes:Array(String)}, concat(toString(_topic), '/', toString(_partition))) = {known:UInt8}
  AND _offset >= {lanes_from:UInt64}
  AND _offset >= transform(concat(toString(_topic), '/', toString(_partition)), {lanes:Array(String)}, {froms:Array(UInt64)}, 0)
GROUP BY topic, partition
