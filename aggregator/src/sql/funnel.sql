-- Each visitor's events in order, with the steps that each matches; only visitors who enter in the period.
SELECT arrayMap(event -> (event.1, event.4), arraySort(groupArray((ms, place, id, mask)))) AS events
FROM
(
    SELECT visitor_id, toUnixTimestamp64Milli(event_time) AS ms, ifNull(toUInt64(sequence), 4294967296) AS place,
           UUIDToNum(event_id) AS id, toUInt32(/*mask*/) AS mask
    FROM events FINAL
    WHERE store_id = {store:String} AND is_bot = 0 AND visitor_id != '' AND /*names*/
      AND event_time >= fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
      AND event_time <= fromUnixTimestamp64Milli({until:Int64}, 'UTC')
)
GROUP BY visitor_id
HAVING countIf(ms < {hi:Int64} AND bitAnd(mask, {enters:UInt32}) != 0) > 0
