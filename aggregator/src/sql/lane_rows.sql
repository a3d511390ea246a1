_offset >= {lanes_from:UInt64}
AND _offset >= transform(concat(toString(_topic), '/', toString(_partition)), {lanes:Array(String)}, {froms:Array(UInt64)}, 18446744073709551615)
AND _offset <= transform(concat(toString(_topic), '/', toString(_partition)), {lanes:Array(String)}, {tos:Array(UInt64)}, 0)
