//! Refused events, as Postgres keeps them.

use sha2::{Digest as _, Sha256};

/// Of each store and reason so many samples are kept, the newest.
pub const SAMPLES_MAX: u32 = 50;

/// Days after which a sample goes.
pub const SAMPLE_DAYS_MAX: i32 = 30;

/// Days after which a count goes.
pub const COUNT_DAYS_MAX: i32 = 400;

/// What stands for a visitor or a user of a store beside a sample: enough to find what an erasure takes, and nobody's id.
pub fn person_key(store_id: &str, id: &str) -> i64 {
    let hash = Sha256::new().chain_update(store_id).chain_update([0]).chain_update(id).finalize();
    let mut key = [0; 8];
    key.copy_from_slice(&hash[..8]);
    i64::from_le_bytes(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_has_another_key_in_each_store() {
        assert_eq!(person_key("shop", "jane"), person_key("shop", "jane"));
        assert_ne!(person_key("shop", "jane"), person_key("other", "jane"));
        assert_ne!(person_key("shop", "jane"), person_key("shopj", "ane"));
    }
}
