-- Persons by the period of their first event and the periods in which they were active; `last` is the period of their
-- last event, counted in the row where it is also `period`.
WITH
    persons AS
    (
        SELECT arrayDistinct(arraySort(groupUniqArray(toInt64(roundDown(ms, {days:Array(Int64)}))))) AS days
        FROM ({{people}})
        GROUP BY person
    )
SELECT kind, cohort, period, toUInt64(count()) AS active, toUInt64(countIf(period = last)) AS last_active
FROM
(
    SELECT pair.1 AS kind, pair.2 AS periods, periods[1] AS cohort, periods[-1] AS last
    FROM persons
    ARRAY JOIN
        [('day', days),
         ('week', arrayDistinct(arrayMap(day -> toInt64(roundDown(day, {weeks:Array(Int64)})), days))),
         ('month', arrayDistinct(arrayMap(day -> toInt64(roundDown(day, {months:Array(Int64)})), days)))] AS pair
)
ARRAY JOIN periods AS period
GROUP BY kind, cohort, period
