//! What the engine itself allows: a configuration of our own, made anew at each start.
//!
//! Without one the library takes a `config.xml` from the current directory, and its user may do everything: run programs
//! through dictionaries, read and write files, connect to other ports. Here the user has rights on the databases named by
//! the settings and no others: no source (`file`, `url`, `postgresql`, `executable` …), no dictionary, no function, no user,
//! no backup. Settings that name files, addresses or pieces of SQL cannot be changed.

use std::{
    io,
    path::{Path, PathBuf},
};

use millrace_service::private;

use super::config::Config;

/// On the databases' tables.
const RIGHTS: &str = "SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW, TRUNCATE, \
                      OPTIMIZE, SYSTEM MERGES";

/// Bytes of a column that are compressed at once. A part is written with some five times this much memory for each of its
/// columns: with ClickHouse's 1 MiB an insert of 11 MiB into the events' 78 columns takes more than 400 MiB, with this 64. LZ4
/// looks back no further.
const COMPRESS_BLOCK_BYTES_MAX: u32 = 64 << 10;
/// Bytes of rows that a merge holds at once of each part; ClickHouse's 10 MiB are for larger machines.
const MERGE_BLOCK_BYTES_MAX: u32 = 1 << 20;

/// Settings that keep the value given here: they name files and addresses, hold SQL that nobody looks at, or choose
/// another language than SQL. An empty value leaves the engine's default.
const FIXED: &[(&str, &str)] = &[
    // Files and addresses.
    ("format_schema", ""),
    ("format_schema_source", ""),
    ("format_template_row", ""),
    ("format_template_resultset", ""),
    ("format_avro_schema_registry_url", ""),
    ("output_format_schema", ""),
    ("input_format_record_errors_file_path", ""),
    ("rename_files_after_processing", ""),
    ("filesystem_cache_name", ""),
    ("url_base", ""),
    // SQL in text. Values of an `INSERT … VALUES` are values, no expressions.
    ("input_format_values_interpret_expressions", "0"),
    ("input_format_values_deduce_templates_of_expressions", "0"),
    ("additional_table_filters", ""),
    ("additional_result_filter", ""),
    ("parallel_replicas_custom_key", ""),
    ("allow_experimental_eval_table_function", "0"),
    ("default_view_definer", ""),
    // Other languages.
    ("dialect", "clickhouse"),
    ("polyglot_dialect", ""),
    ("implicit_select", "0"),
    ("implicit_table_at_top_level", ""),
    // Beyond the tables.
    ("allow_experimental_ai_functions", "0"),
    ("ai_function_text_default_credentials", ""),
    ("ai_function_embedding_default_credentials", ""),
    ("allow_introspection_functions", "0"),
    ("jemalloc_enable_profiler", "0"),
    // By its number a statement is killed.
    ("log_comment", ""),
    // Of tables: a disk can be any directory or address.
    ("merge_tree_disk", ""),
    ("merge_tree_storage_policy", ""),
];

/// Writes the configuration below the data directory, over whatever is there, and returns the main file's path.
pub(super) fn write(config: &Config, data_dir: &Path) -> io::Result<PathBuf> {
    let dir = data_dir.join("millrace-config");
    // Also what the engine would read beside it (`config.d`, `users.d`), should anything be there.
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    private::create_dir_all(&dir)?;
    let (main, users) = (dir.join("config.xml"), dir.join("users.xml"));
    private::write(&users, users_xml(config).as_bytes())?;
    private::write(&main, main_xml(data_dir, &users).as_bytes())?;
    Ok(main)
}

/// Directories that people's files and programs would be taken from do not exist.
fn main_xml(data_dir: &Path, users: &Path) -> String {
    let nowhere = escaped(&data_dir.join("millrace-config/none").display().to_string());
    let users = escaped(&users.display().to_string());
    format!(
        "<clickhouse>
    <users_config>{users}</users_config>
    <merge_tree>
        <max_compress_block_size>{COMPRESS_BLOCK_BYTES_MAX}</max_compress_block_size>
        <merge_max_block_size_bytes>{MERGE_BLOCK_BYTES_MAX}</merge_max_block_size_bytes>
    </merge_tree>
    <user_scripts_path>{nowhere}</user_scripts_path>
    <format_schema_path>{nowhere}</format_schema_path>
    <dictionaries_lib_path>{nowhere}</dictionaries_lib_path>
    <custom_local_disks_base_directory>{nowhere}</custom_local_disks_base_directory>
</clickhouse>
"
    )
}

fn users_xml(config: &Config) -> String {
    let fixed = |line: fn(&str, &str) -> Option<String>| {
        FIXED.iter().filter_map(|(name, value)| line(name, value)).collect::<String>()
    };
    let values = fixed(|name, value| (!value.is_empty()).then(|| format!("<{name}>{value}</{name}>\n")));
    let constraints = fixed(|name, _| Some(format!("<{name}><const/></{name}>\n")));
    let databases = config.databases.iter().map(|name| format!("GRANT {RIGHTS} ON {}.*", database(name)));
    let sources = config.sources.iter().map(|name| format!("GRANT READ, WRITE ON {name}"));
    let grants: String =
        databases.chain(sources).map(|grant| format!("<query>{}</query>\n", escaped(&grant))).collect();
    format!(
        "<clickhouse>
<profiles><default>
<max_compress_block_size>{COMPRESS_BLOCK_BYTES_MAX}</max_compress_block_size>
{values}<constraints>
{constraints}</constraints>
</default></profiles>
<quotas><default></default></quotas>
<users><default>
<password></password>
<networks><ip>::/0</ip></networks>
<profile>default</profile>
<quota>default</quota>
<grants>
{grants}</grants>
</default></users>
</clickhouse>
"
    )
}

/// A database's name as it stands in a statement; `*` is all of them.
pub(super) fn database(name: &str) -> String {
    if name == "*" { name.to_owned() } else { format!("`{name}`") }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn the_configuration_is_made_anew_and_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("directory");
        let planted = dir.path().join("millrace-config/users.d/more.xml");
        std::fs::create_dir_all(planted.parent().expect("a parent")).expect("made");
        std::fs::write(&planted, "<clickhouse/>").expect("written");
        let main = write(&Config::parse_from(["x", "--source", "KAFKA"]), dir.path()).expect("written");
        assert!(!planted.exists());
        assert_eq!(std::fs::metadata(&main).expect("there").permissions().mode() & 0o777, 0o600);
        let users = std::fs::read_to_string(main.with_file_name("users.xml")).expect("there");
        assert!(users.contains("ON `millrace`.*") && users.contains("GRANT READ, WRITE ON KAFKA"), "{users}");
    }
}
