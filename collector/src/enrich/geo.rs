//! Step `geo`: an address to country, region and city, by a MaxMind DB file (GeoLite2 or GeoIP2 City or Country, or another
//! with their fields).

use std::{net::IpAddr, path::Path};

use maxminddb::Reader;
use serde::Deserialize;

use super::file::{FileData, FileError};

/// A place; what is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// ISO 3166-1.
    pub(crate) country: String,
    /// ISO 3166-2, with the country.
    pub(crate) region: String,
    /// In English.
    pub(crate) city: String,
}

/// Places by address.
pub(crate) struct Places(FileData<Reader<Vec<u8>>>);

impl Places {
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        FileData::open(path, read).map(Self)
    }

    pub(crate) fn refresh(&self) {
        self.0.refresh();
    }

    /// Where an address is.
    pub(crate) fn find(&self, address: IpAddr) -> Place {
        let reader = self.0.load();
        // A record that is not as expected is a place that is not known: the event is none the worse.
        let found = reader.lookup(address).and_then(|found| found.decode::<Record<'_>>());
        found.ok().flatten().map(|record| record.place()).unwrap_or_default()
    }
}

/// In memory, not mapped: a file that shrinks under a map ends the process.
fn read(bytes: &[u8]) -> Result<Reader<Vec<u8>>, String> {
    Reader::from_source(bytes.to_vec()).map_err(|error| format!("no MaxMind DB: {error}"))
}

/// What is read of a record.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    country: Option<Coded<'a>>,
    #[serde(borrow)]
    subdivisions: Option<Vec<Coded<'a>>>,
    #[serde(borrow)]
    city: Option<Named<'a>>,
}

#[derive(Deserialize)]
struct Coded<'a> {
    iso_code: Option<&'a str>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    names: Option<Names<'a>>,
}

#[derive(Deserialize)]
struct Names<'a> {
    en: Option<&'a str>,
}

impl Record<'_> {
    fn place(self) -> Place {
        let country = self.country.and_then(|country| country.iso_code).unwrap_or_default();
        let region = self.subdivisions.and_then(|list| list.first()?.iso_code);
        let city = self.city.and_then(|city| city.names?.en);
        Place {
            country: country.to_owned(),
            region: region.map(|code| format!("{country}-{code}")).unwrap_or_default(),
            city: city.unwrap_or_default().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST_DATABASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/GeoIP2-City-Test.mmdb");

    #[test]
    fn addresses_are_placed() {
        let places = Places::open(Path::new(TEST_DATABASE)).unwrap();
        let find = |address: &str| {
            let Place { country, region, city } = places.find(address.parse().unwrap());
            [country, region, city].join("/")
        };
        assert_eq!(find("81.2.69.142"), "GB/GB-ENG/London");
        assert_eq!(find("::ffff:81.2.69.142"), "GB/GB-ENG/London");
        assert_eq!(find("2001:218::1"), "JP//");
        assert_eq!(find("127.0.0.1"), "//");
    }

    #[test]
    fn other_files_are_refused() {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        assert!(Places::open(path).err().unwrap().to_string().contains("no MaxMind DB"));
    }
}
