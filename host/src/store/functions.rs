//! The functions that handlers and migrations may call: built-in ones without side effects on anything but the result.
//!
//! Not here, among others: whatever changes a setting or a role, runs SQL that no parser sees (`query_to_xml`, `ts_stat`), sleeps, reads files,
//! sends signals or notifications, takes advisory locks, or advances a sequence.

use std::collections::HashSet;
use std::sync::LazyLock;

/// Whether a function, by its folded name, has no effect but its result.
pub fn is_harmless(name: &str) -> bool {
    static NAMES: LazyLock<HashSet<&str>> =
        LazyLock::new(|| GROUPS.iter().flat_map(|(_, names)| names.split_whitespace()).collect());
    NAMES.contains(name)
}

const GROUPS: &[(&str, &str)] = &[
    (
        "aggregates and windows",
        "count sum avg min max array_agg string_agg bool_and bool_or every bit_and bit_or json_agg jsonb_agg \
         json_object_agg jsonb_object_agg stddev stddev_pop stddev_samp variance var_pop var_samp percentile_cont \
         percentile_disc mode row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value \
         nth_value grouping range_agg",
    ),
    ("conditions", "coalesce nullif greatest least num_nulls num_nonnulls"),
    (
        "time",
        "now transaction_timestamp statement_timestamp clock_timestamp current_timestamp current_date current_time \
         localtime localtimestamp date_trunc date_part date_bin extract age make_date make_time make_timestamp \
         make_timestamptz make_interval justify_days justify_hours justify_interval to_char to_date to_timestamp \
         to_number isfinite timezone date",
    ),
    (
        "text and bytes",
        "lower upper initcap length char_length character_length octet_length bit_length trim btrim ltrim rtrim left \
         right lpad rpad substr substring overlay position strpos split_part replace translate reverse repeat concat \
         concat_ws format ascii chr starts_with string_to_array array_to_string string_to_table regexp_replace \
         regexp_match regexp_matches regexp_split_to_array regexp_split_to_table regexp_count regexp_like regexp_substr \
         regexp_instr quote_literal quote_ident normalize md5 sha224 sha256 sha384 sha512 encode decode convert_to \
         convert_from get_byte to_hex hashtext uuid_extract_timestamp",
    ),
    (
        "numbers",
        "abs ceil ceiling floor round trunc sign mod div power pow sqrt cbrt exp ln log log10 gcd lcm width_bucket \
         random pi degrees radians sin cos tan asin acos atan atan2",
    ),
    (
        "arrays and sets of rows",
        "unnest generate_series generate_subscripts cardinality array_length array_lower array_upper array_ndims \
         array_append array_prepend array_cat array_remove array_replace array_position array_positions any all row",
    ),
    (
        "json",
        "to_json to_jsonb row_to_json array_to_json json_build_object jsonb_build_object json_build_array \
         jsonb_build_array json_object jsonb_object json_typeof jsonb_typeof json_array_length jsonb_array_length \
         json_array_elements jsonb_array_elements json_array_elements_text jsonb_array_elements_text json_each \
         jsonb_each json_each_text jsonb_each_text json_object_keys jsonb_object_keys json_extract_path \
         jsonb_extract_path json_extract_path_text jsonb_extract_path_text jsonb_set jsonb_insert jsonb_strip_nulls \
         json_strip_nulls jsonb_pretty jsonb_path_exists jsonb_path_query jsonb_path_query_array jsonb_path_query_first \
         jsonb_path_match json_to_recordset jsonb_to_recordset json_to_record jsonb_to_record",
    ),
    (
        "text search and ranges",
        "to_tsvector to_tsquery plainto_tsquery phraseto_tsquery websearch_to_tsquery ts_rank ts_rank_cd ts_headline \
         setweight numnode int4range int8range numrange daterange tsrange tstzrange lower_inc upper_inc isempty",
    ),
    ("identifiers that the server makes", "gen_random_uuid"),
];
