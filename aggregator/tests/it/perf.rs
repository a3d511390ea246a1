use crate::harness::Bed;
use std::time::Instant;
#[tokio::test(flavor = "multi_thread")]
async fn perf() {
    drop(tracing_subscriber::fmt().with_env_filter("millrace_aggregator=debug").with_ansi(false).try_init());
    let bed = Bed::with_store("s", "America/New_York", "USD").await;
    sqlx::query("INSERT INTO funnels (store_id, funnel_name) VALUES ('s','f')")
        .execute(&bed.pool)
        .await
        .unwrap();
    for (i, e) in ["view_item", "add_to_cart", "begin_checkout", "purchase"].iter().enumerate() {
        sqlx::query("INSERT INTO funnel_steps (store_id, funnel_name, step_name, step_order, definition) VALUES ('s','f',$1,$2,$3)").bind(*e).bind(i as i32+1).bind(serde_json::json!({"event":e})).execute(&bed.pool).await.unwrap();
    }
    let days: i64 = std::env::var("PDAYS").map_or(1, |d| d.parse().unwrap());
    let per: i64 = std::env::var("PROWS").map_or(2_000_000, |d| d.parse().unwrap());
    let n = days * per;
    for k in 0..(n / 100_000) {
        let q = format!("INSERT INTO millrace.events (store_id,event_id,type,name,event_time,client_time,received_at,time_source,key_date,visitor_id,visitor_hash,session_id,page_view_id,duration_ms,url,order_id,total_minor,currency,item_product_id,item_price_minor,item_quantity,item_discount_minor,user_id,_topic,_partition,_offset,value)
SELECT 's', generateUUIDv4(), if(r<50,'page_view','event') t, multiIf(r<50,'page_view',r<75,'view_item',r<85,'add_to_cart',r<90,'begin_checkout',r<92,'purchase','search'),
 fromUnixTimestamp64Milli(1793505600000 - toInt64({days}-1)*86400000 + toInt64(intDiv(n,{per}))*86400000 + toInt64(rand(5)%80000000)) et, et, et, 'client', toDate(et), 'v'||toString(intDiv(n,{per})*1000000 + sess) v, cityHash64(v), if(rand(33)%10=0,'',v||'s'), if(r<75,'p'||toString(sess*100+rand(8)%5),''), if(r<50,rand(9)%30000,0), 'https://shop.example/p/'||toString(rand(3)%1000), if(r>=90 and r<92,'o'||toString(n),''), if(r>=90 and r<92,1000,NULL), 'USD', if(r>=50 and r<92,['a'||toString(rand(12)%2000)],[]), if(r>=50 and r<92,[500],[]),if(r>=50 and r<92,[1],[]),if(r>=50 and r<92,[0],[]), '', 'millrace.events', 0, n, NULL
 FROM (SELECT {k}*100000+number AS n, rand(1)%100 AS r, rand(2)%toUInt32({per}/20) AS sess FROM numbers(100000))");
        bed.clickhouse("", &q).await;
    }
    for what in ["first", "again"] {
        if what == "again" {
            bed.clickhouse("", &format!("INSERT INTO millrace.events (store_id,event_id,type,name,event_time,received_at,key_date,visitor_id,visitor_hash,session_id,_topic,_partition,_offset) SELECT 's', generateUUIDv4(),'page_view','page_view', fromUnixTimestamp64Milli(1793505600000+80000000+toInt64(number)) et, et, toDate(et), 'v'||toString({}*1000000+number) v, cityHash64(v), v||'s','millrace.events',0,{n}+number from numbers(2000)", days-1)).await;
        }
        let t = Instant::now();
        let l = millrace_aggregator::arrival::look(&bed.warehouse, &bed.pool).await.unwrap();
        println!("{what}: look {l} days {:?}", t.elapsed());
        let t = Instant::now();
        bed.roll().await;
        println!("{what}: roll {:?}", t.elapsed());
        println!(
            "engine rss {}",
            std::fs::read_to_string(format!("/proc/{}/status", bed.engine.id().unwrap()))
                .unwrap()
                .lines()
                .filter(|l| l.starts_with("VmRSS") || l.starts_with("VmHWM"))
                .collect::<Vec<_>>()
                .join(" ")
        );
    }
    println!(
        "{}",
        bed.clickhouse(
            "",
            "SELECT count(), uniqExact(visitor_id, session_id) FROM millrace.events FORMAT TSV"
        )
        .await
    );
}
