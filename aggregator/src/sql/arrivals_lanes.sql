-- What of each partition lies at or beyond `froms`: what of it had been seen (below `nexts`), and what is in its newest
-- batches (from `batches`). Of the partitions in `active` when `is_active` is 1, else of all others.
SELECT toString(_topic) AS topic, toUInt32(_partition) AS partition,
       toUInt64(max(_batch)) AS batch, toUInt64(max(_offset)) AS last,
       toUInt64(count()) AS all_rows,
       toUInt64(countIf(is_seen)) AS seen_rows, toUInt64(sumIf(row_hash, is_seen)) AS seen_hash,
       toUInt64(countIf(is_newest)) AS rows, toUInt64(sumIf(row_hash, is_newest)) AS hash
FROM
(
    SELECT _topic, _partition, _offset, _batch, cityHash64(_offset, _row) AS row_hash,
           concat(toString(_topic), '/', toString(_partition)) AS lane,
           _offset < transform(lane, {lanes:Array(String)}, {nexts:Array(UInt64)}, 0) AS is_seen,
           _offset >= transform(lane, {lanes:Array(String)}, {batches:Array(UInt64)}, 0) AS is_newest
    FROM {table:Identifier}
    WHERE has({active:Array(String)}, lane) = {is_active:UInt8}
      AND _offset >= {lanes_from:UInt64}
      AND _offset >= transform(lane, {lanes:Array(String)}, {froms:Array(UInt64)}, 0)
)
GROUP BY topic, partition
