//! Scopes: the generations of consumer groups, where they began to read, and what operators ask of them.

use super::Pool;
use super::error::{Unavailable, describe};
use super::inbox::Scope;
use super::pool::Lease;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::{Display, Formatter};
use std::str::FromStr;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// A partition of a topic.
pub type TopicPartition = (String, i32);

/// What a generation is to its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationState {
    /// It handles what arrives.
    Current,
    /// It reads everything anew until it has caught up with the current one.
    Building,
    /// Another one took its place.
    Retired,
}

/// A generation of a consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its scope in the inbox.
    pub scope: Scope,
    /// The group, as manifests name it.
    pub group: String,
    /// The group's handler.
    pub handler: String,
    /// Counted from 1.
    pub number: i32,
    /// What it is to its group.
    pub state: GenerationState,
    /// Where a building one begins, milliseconds since 1970; none: with the oldest record.
    pub begins_at: Option<i64>,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// When it was retired, RFC 3339.
    pub ended_at: Option<String>,
}

impl Generation {
    /// The group's name at the brokers: that of the group for the first generation, `NAME.g2` for the second, and so on.
    pub fn group_id(&self) -> String {
        match self.number {
            1 => self.group.clone(),
            number => format!("{}.g{number}", self.group),
        }
    }

    fn read(row: &Row) -> Self {
        let state: &str = row.get(4);
        Self {
            scope: Scope(row.get(0)),
            group: row.get(1),
            handler: row.get::<_, Option<String>>(2).unwrap_or_default(),
            number: row.get(3),
            state: match state {
                "current" => GenerationState::Current,
                "building" => GenerationState::Building,
                _ => GenerationState::Retired,
            },
            begins_at: row.get(5),
            created_at: row.get(6),
            ended_at: row.get(7),
        }
    }
}

/// Where a partition is to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// At the oldest record that there is.
    Earliest,
    /// At the next record.
    Latest,
    /// At this one.
    Offset(i64),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = (1..=18).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            _ => text
                .parse()
                .ok()
                .filter(|_| digits)
                .map(Self::Offset)
                .ok_or(format!("`{text}` is no `earliest`, `latest` or offset")),
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::Offset(offset) => write!(f, "{offset}"),
        }
    }
}

/// An operator's word on where a partition goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The generation that it is for.
    pub scope: Scope,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Where to.
    pub target: Target,
    /// Who gave it.
    pub by: String,
    /// When it was given, as PostgreSQL writes it; tells it from a later one.
    given: String,
}

const GENERATION: &str = "SELECT scope, consumer_group, handler, generation, state, begins_at, \
    to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), \
    to_char(ended_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM tidemill.scopes";

/// The generations and what belongs to them, in the pool's database.
#[derive(Debug, Clone)]
pub struct Scopes {
    pool: Pool,
}

impl Scopes {
    /// The scopes of the pool's database.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Makes the first generation of every group that has none, and notes whose groups they are: `groups[i]` is of `handlers[i]`.
    pub async fn ensure(&self, groups: &[&str], handlers: &[&str]) -> Result<(), Unavailable> {
        let make = "INSERT INTO tidemill.scopes (consumer_group, handler) \
                    SELECT g.name, g.handler FROM unnest($1::text[], $2::text[]) AS g(name, handler) \
                    WHERE NOT EXISTS (SELECT 1 FROM tidemill.scopes s WHERE s.consumer_group = g.name) ON CONFLICT DO NOTHING";
        let name = "UPDATE tidemill.scopes s SET handler = g.handler FROM unnest($1::text[], $2::text[]) AS g(name, handler) \
                    WHERE s.consumer_group = g.name AND s.state <> 'retired' AND s.handler IS DISTINCT FROM g.handler";
        self.query(make, &[&groups, &handlers]).await?;
        self.query(name, &[&groups, &handlers]).await.map(drop)
    }

    /// The current and building generations of these groups, and the orders that wait for them.
    pub async fn live(&self, groups: &[&str]) -> Result<(Vec<Generation>, Vec<Order>), Unavailable> {
        let generations = format!(
            "{GENERATION} WHERE consumer_group = ANY($1::text[]) AND state <> 'retired' ORDER BY consumer_group, generation"
        );
        let orders = "SELECT o.scope, o.topic, o.partition, o.target, o.ordered_by, o.ordered_at::text FROM tidemill.offset_orders o \
                      JOIN tidemill.scopes s USING (scope) WHERE s.consumer_group = ANY($1::text[]) AND s.state <> 'retired'";
        let generations = self.query(&generations, &[&groups]).await?;
        let orders = self.query(orders, &[&groups]).await?;
        let order = |row: &Row| {
            Some(Order {
                scope: Scope(row.get(0)),
                topic: row.get(1),
                partition: row.get(2),
                target: row.get::<_, &str>(3).parse().ok()?,
                by: row.get(4),
                given: row.get(5),
            })
        };
        Ok((generations.iter().map(Generation::read).collect(), orders.iter().filter_map(order).collect()))
    }

    /// All generations of all groups.
    pub async fn all(&self) -> Result<Vec<Generation>, Unavailable> {
        let rows = self.query(&format!("{GENERATION} ORDER BY consumer_group, generation"), &[]).await?;
        Ok(rows.iter().map(Generation::read).collect())
    }

    /// The topics that the current and building generations have begun to read, whoever is deployed now.
    pub async fn topics(&self) -> Result<BTreeSet<String>, Unavailable> {
        let sql = "SELECT DISTINCT g.topic FROM tidemill.group_starts g JOIN tidemill.scopes s USING (scope) WHERE s.state <> 'retired'";
        Ok(self.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
    }

    /// One generation.
    pub async fn generation(&self, scope: Scope) -> Result<Option<Generation>, Unavailable> {
        let rows = self.query(&format!("{GENERATION} WHERE scope = $1"), &[&scope.0]).await?;
        Ok(rows.first().map(Generation::read))
    }

    /// The (source, id) of every event that a generation has handled. For tests: an installation in use has millions.
    pub async fn handled(&self, scope: Scope) -> Result<HashSet<(String, String)>, Unavailable> {
        let rows = self.query("SELECT source, id FROM tidemill.inbox WHERE scope = $1", &[&scope.0]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Where a generation began to read, or was told to go on, for all its partitions.
    pub async fn starts(&self, scope: Scope) -> Result<BTreeMap<TopicPartition, i64>, Unavailable> {
        let sql = "SELECT topic, partition, start_offset FROM tidemill.group_starts WHERE scope = $1";
        let rows = self.query(sql, &[&scope.0]).await?;
        Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
    }

    /// Notes where partitions begin. What is noted already stays: of two replicas that decide at once, one does.
    pub async fn begin(&self, scope: Scope, starts: &BTreeMap<TopicPartition, i64>) -> Result<(), Unavailable> {
        let topics: Vec<&str> = starts.keys().map(|(topic, _)| topic.as_str()).collect();
        let partitions: Vec<i32> = starts.keys().map(|(_, partition)| *partition).collect();
        let offsets: Vec<i64> = starts.values().copied().collect();
        let sql = "INSERT INTO tidemill.group_starts (scope, topic, partition, start_offset) \
                   SELECT $1, * FROM unnest($2::text[], $3::int4[], $4::int8[]) ORDER BY 2, 3 ON CONFLICT DO NOTHING";
        self.query(sql, &[&scope.0, &topics, &partitions, &offsets]).await.map(drop)
    }

    /// Makes an order one for this offset, so that following it twice leads to the same place; false if it is not there any more.
    pub async fn fix(&self, order: &Order, offset: i64) -> Result<bool, Unavailable> {
        let sql = "UPDATE tidemill.offset_orders SET target = $5::int8::text \
                   WHERE scope = $1 AND topic = $2 AND partition = $3 AND ordered_at::text = $4 RETURNING 1";
        let rows = self.query(sql, &[&order.scope.0, &order.topic, &order.partition, &order.given, &offset]).await?;
        Ok(!rows.is_empty())
    }

    /// Takes away an order that was followed to `offset`, or that cannot be followed.
    pub async fn done(&self, order: &Order, offset: Option<i64>) -> Result<(), Unavailable> {
        let sql = "WITH gone AS (DELETE FROM tidemill.offset_orders \
                                 WHERE scope = $1 AND topic = $2 AND partition = $3 AND ordered_at::text = $4) \
                   INSERT INTO tidemill.group_starts (scope, topic, partition, start_offset) \
                   SELECT $1, $2, $3, $5::int8 WHERE $5::int8 IS NOT NULL \
                   ON CONFLICT (scope, topic, partition) DO UPDATE SET start_offset = EXCLUDED.start_offset";
        self.query(sql, &[&order.scope.0, &order.topic, &order.partition, &order.given, &offset]).await.map(drop)
    }

    /// Gives an order for a partition of a generation, in place of an earlier one, and records it.
    pub async fn order(&self, of: &Generation, place: &TopicPartition, target: Target, actor: &str) -> Result<(), Unavailable> {
        let sql = "WITH given AS (INSERT INTO tidemill.offset_orders (scope, topic, partition, target, ordered_by) VALUES ($1, $2, $3, $4, $5) \
                       ON CONFLICT (scope, topic, partition) DO UPDATE \
                       SET target = EXCLUDED.target, ordered_by = EXCLUDED.ordered_by, ordered_at = clock_timestamp()) \
                   INSERT INTO tidemill.actions (actor, via, action, subject, details) \
                   VALUES ($5, 'cli', 'offsets.reset', $6, jsonb_build_object('topic', $2::text, 'partition', $3::int4, 'to', $4::text))";
        self.query(sql, &[&of.scope.0, &place.0, &place.1, &target.to_string(), &actor, &of.group_id()]).await.map(drop)
    }

    /// Begins a new generation of a group beside the current one, and records it; none if one is building already.
    pub async fn rebuild(&self, group: &str, begins_at: Option<i64>, actor: &str) -> Result<Option<Generation>, Unavailable> {
        let sql = "WITH made AS (INSERT INTO tidemill.scopes (consumer_group, generation, handler, state, begins_at) \
                       SELECT $1, max(generation) + 1, max(handler) FILTER (WHERE state = 'current'), 'building', $2::int8 \
                       FROM tidemill.scopes WHERE consumer_group = $1 HAVING count(*) FILTER (WHERE state = 'current') = 1 \
                       ON CONFLICT DO NOTHING RETURNING scope, generation), \
                   noted AS (INSERT INTO tidemill.actions (actor, via, action, subject, details) \
                       SELECT $3, 'cli', 'reprocess.start', $1, jsonb_build_object('generation', generation, 'from', $2::int8) FROM made) \
                   SELECT scope FROM made";
        match self.query(sql, &[&group, &begins_at, &actor]).await?.first() {
            Some(row) => self.generation(Scope(row.get(0))).await,
            None => Ok(None),
        }
    }

    /// Retires the generation of a group that is building, and records it; its number, none if none is building.
    pub async fn cancel(&self, group: &str, actor: &str) -> Result<Option<i32>, Unavailable> {
        let sql = "WITH ended AS (UPDATE tidemill.scopes SET state = 'retired', ended_at = clock_timestamp() \
                       WHERE consumer_group = $1 AND state = 'building' RETURNING generation), \
                   noted AS (INSERT INTO tidemill.actions (actor, via, action, subject, details) \
                       SELECT $2, 'cli', 'reprocess.cancel', $1, jsonb_build_object('generation', generation) FROM ended) \
                   SELECT generation FROM ended";
        Ok(self.query(sql, &[&group, &actor]).await?.first().map(|row| row.get(0)))
    }

    /// Makes a building generation the current one, in one step; false if it is building no more.
    pub async fn switch(&self, building: Scope) -> Result<bool, Unavailable> {
        let rows = self.query("SELECT tidemill.switch_generation($1)", &[&building.0]).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    async fn query(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Unavailable> {
        let mut lease: Lease = self.pool.lend().await?;
        let rows = lease.client().query(sql, params).await.map_err(|error| Unavailable(describe(&error)))?;
        lease.give_back();
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_reads_as_it_is_written_and_nothing_else_passes() {
        for text in ["earliest", "latest", "0", "12345"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in ["", "-1", "+1", "1.5", "Earliest", "1234567890123456789"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
