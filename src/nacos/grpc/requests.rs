//! Query, publish, remove, listen.
use std::sync::Arc;

use super::{
    Api,
    connection::{Connection, Spelling, TooManyKeys},
    dispatch::{code, failure},
    patterns::{self, Limit},
};
use crate::{
    nacos::{
        names,
        publishing::{Asked, Refusal, variant_to_remove},
        wire::{
            messages::{
                ChangedConfig, ConfigBatchListenRequest, ConfigChangeBatchListenResponse, ConfigFuzzyWatchRequest,
                ConfigListenContext, ConfigPublishRequest, ConfigQueryRequest, ConfigQueryResponse,
                ConfigRemoveRequest, Outcome, parse_group_key,
            },
            payload::Payload,
        },
    },
    service::{ClientLabels, Found, Interest, Seen, ServiceError},
    types::{ConfigKey, Digest, InvalidName, KeyPattern, Tag, Variant, limits},
};

type Refused = Box<Payload>;

const QUERY_RESPONSE: &str = "ConfigQueryResponse";
const PUBLISH_RESPONSE: &str = "ConfigPublishResponse";
const REMOVE_RESPONSE: &str = "ConfigRemoveResponse";
const FUZZY_WATCH_RESPONSE: &str = "ConfigFuzzyWatchResponse";
const LISTEN_RESPONSE: &str = "ConfigChangeBatchListenResponse";

/// Why a name is refused, in the words of Nacos over gRPC.
fn complaint(err: &InvalidName) -> String {
    let why = names::complaint(err);
    if names::is_found_by_filter(err) { format!("Param check invalid:{why}") } else { why }
}

fn invalid(why: impl Into<String>) -> Outcome {
    Outcome::failed(code::INVALID, why)
}

/// A key, or why there is none.
fn key(data_id: Option<&str>, group: Option<&str>, tenant: Option<&str>) -> Result<ConfigKey, Outcome> {
    fn named<'a>(name: Option<&'a str>, field: &str) -> Result<&'a str, Outcome> {
        name.ok_or_else(|| invalid(format!("invalid {field} : null")))
    }
    let refused = |err: InvalidName| invalid(complaint(&err));
    let tenant = tenant.unwrap_or_default();
    // Illegal names are found before missing ones, as in a filter.
    names::check(data_id, group, tenant).map_err(refused)?;
    names::key(named(data_id, "dataId")?, named(group, "group")?, tenant).map_err(refused)
}

fn missing<'a>(outcome: Outcome, tag: Option<&'a str>) -> ConfigQueryResponse<'a> {
    ConfigQueryResponse {
        outcome,
        content: None,
        encrypted_data_key: None,
        content_type: None,
        md5: None,
        last_modified: 0,
        tag,
        beta: false,
    }
}

pub(super) async fn query(api: &Api, connection: &Connection, request: ConfigQueryRequest) -> Result<Payload, Refused> {
    let refuse = |outcome| Box::new(Payload::new(QUERY_RESPONSE, &missing(outcome, None)));
    let key = key(request.data_id.as_deref(), request.group.as_deref(), request.tenant.as_deref()).map_err(refuse)?;
    let looked = connection.moment();
    let tag = request.tag.as_deref().filter(|it| !it.trim().is_empty());
    let asked_tag = tag.map(Tag::parse).transpose().map_err(|err| refuse(invalid(complaint(&err))))?;
    let gray_client;
    let labels = if asked_tag.is_some() {
        gray_client = ClientLabels { asked_tag, ..connection.labels.clone() };
        &gray_client
    } else {
        &connection.labels
    };
    connection.catch_up(&api.services).await;
    let failed = |err: &ServiceError| Box::new(failure(err, QUERY_RESPONSE, |outcome| missing(outcome, None)));
    let read = api.services.get(&key, labels, api.reads).await.map_err(|err| failed(&err))?;
    // Only now: who was refused has not seen what changed. And who asks for another version than it listens to looks elsewhere.
    if labels.asked_tag.is_none() && !connection.lists_again {
        connection.look(looked, [&key]);
    }
    let Some(found) = read.value else {
        let outcome = Outcome::failed(code::NOT_FOUND, "config data not exist");
        return Ok(Payload::new(QUERY_RESPONSE, &missing(outcome, tag)));
    };
    let content_type = api.services.content_type(&key, &found).await.map_err(|err| failed(&err))?;
    let Found { variant, record } = &found;
    let stored_key = record.attributes.encrypted_data_key.as_deref();
    let answer = ConfigQueryResponse {
        outcome: Outcome::ok(),
        content: Some(record.content.text()),
        encrypted_data_key: if *variant == Variant::Formal { Some(stored_key.unwrap_or("")) } else { stored_key },
        content_type: Some(content_type.as_str()),
        md5: Some(record.content.digest().to_hex()),
        last_modified: record.modified_at.0,
        // Named only to who asked for it, as clients in Java can: those in Go and Python, which get it by their label, take
        // no text here and lose the whole answer.
        tag: if let Variant::Tag(found) = variant { tag.and(Some(found.as_str())) } else { None },
        beta: *variant == Variant::Beta,
    };
    Ok(Payload::new(QUERY_RESPONSE, &answer))
}

pub(super) async fn publish(
    api: &Api,
    connection: &Connection,
    request: ConfigPublishRequest,
) -> Result<Payload, Refused> {
    let refuse = |outcome: Outcome| Box::new(Payload::new(PUBLISH_RESPONSE, &outcome));
    let key = key(request.data_id.as_deref(), request.group.as_deref(), request.tenant.as_deref()).map_err(refuse)?;
    let mut options = request.addition_map.unwrap_or_default();
    // Some clients send every option, and leave blank what they do not mean.
    let mut option = |name: &str| options.remove(name).flatten().filter(|it| !it.trim().is_empty());
    let asked = Asked {
        content: request.content,
        tag: option("tag"),
        beta_ips: option("betaIps"),
        cas_md5: request.cas_md5,
        user: option("src_user"),
        ip: connection.labels.ip.clone(),
        content_type: option("type"),
        app_name: option("appName"),
        config_tags: option("config_tags"),
        description: option("desc"),
        usage: option("use"),
        effect: option("effect"),
        schema: option("schema"),
        encrypted_data_key: option("encryptedDataKey"),
    };
    let publication = asked.publication(key, api.content_bytes_max).map_err(|refusal| {
        refuse(match refusal {
            Refusal::Name(err) => invalid(complaint(&err)),
            Refusal::Content(why) => invalid(why),
            // Nacos: these are found by a handler, not by the filter.
            Refusal::Description(why) => Outcome::failed(code::FAILED, why),
        })
    })?;
    match api.services.publish(publication, None).await {
        Ok(_) => Ok(Payload::new(PUBLISH_RESPONSE, &Outcome::ok())),
        Err(err) => Err(Box::new(failure(&err, PUBLISH_RESPONSE, |outcome| outcome))),
    }
}

pub(super) async fn remove(api: &Api, request: ConfigRemoveRequest) -> Result<Payload, Refused> {
    let refuse = |outcome: Outcome| Box::new(Payload::new(REMOVE_RESPONSE, &outcome));
    let key = key(request.data_id.as_deref(), request.group.as_deref(), request.tenant.as_deref()).map_err(refuse)?;
    let variant = variant_to_remove(request.tag.as_deref()).map_err(|err| refuse(invalid(complaint(&err))))?;
    match api.services.remove(key, variant, None).await {
        Ok(_) => Ok(Payload::new(REMOVE_RESPONSE, &Outcome::ok())),
        Err(err) => Err(Box::new(failure(&err, REMOVE_RESPONSE, |outcome| outcome))),
    }
}

pub(super) async fn listen(
    api: &Api,
    connection: &Arc<Connection>,
    tag: Option<&str>,
    request: ConfigBatchListenRequest,
) -> Result<Payload, Refused> {
    let answer = |outcome, changed_configs| {
        Payload::new(LISTEN_RESPONSE, &ConfigChangeBatchListenResponse { outcome, changed_configs })
    };
    let refuse = |outcome| Box::new(answer(outcome, Vec::new()));
    let Some(contexts) = request.config_listen_contexts else {
        return Err(refuse(invalid("invalid configListenContexts : null")));
    };
    if contexts.len() > limits::LISTEN_KEYS_MAX {
        return Err(refuse(invalid(format!("too many configListenContexts, over {}", limits::LISTEN_KEYS_MAX))));
    }
    let interests = contexts.iter().map(interest).collect::<Result<Vec<Interest>, Outcome>>().map_err(refuse)?;
    let keys: Vec<(ConfigKey, Spelling)> =
        interests.iter().zip(&contexts).map(|(interest, context)| (interest.key.clone(), spelling(context))).collect();
    if !request.listen {
        connection.unlisten(&keys);
        return Ok(answer(Outcome::ok(), Vec::new()));
    }
    let _until_answered = connection.begin_listening();
    connection.catch_up(&api.services).await;
    // Register first, compare second: what changes between the two is pushed.
    if let Err(TooManyKeys) = connection.listen(&keys) {
        let why = format!("a connection listens to at most {} keys", limits::STREAM_KEYS_MAX);
        return Err(refuse(Outcome::failed(code::OVER_THRESHOLD, why)));
    }
    let tagged;
    let labels = match tag.and_then(|tag| Tag::parse(tag).ok()) {
        None => &connection.labels,
        carried_tag => {
            tagged = ClientLabels { carried_tag, ..connection.labels.clone() };
            &tagged
        }
    };
    let stale = api.services.stale(&interests, labels);
    let changed = stale.iter().map(|&at| {
        let key = &interests[at].key;
        ChangedConfig { group: key.group(), data_id: key.data_id(), tenant: contexts[at].tenant.as_deref() }
    });
    let answer = answer(Outcome::ok(), changed.collect());
    let (told, known): (Vec<_>, Vec<_>) =
        keys.into_iter().enumerate().partition(|(at, _)| stale.binary_search(at).is_ok());
    let answered = connection.moment();
    connection.look(answered, known.iter().map(|(_, (key, _))| key));
    connection.announced.add(answered, told.into_iter().map(|(_, it)| it).collect());
    Ok(answer)
}

pub(super) async fn fuzzy_watch(
    api: &Api,
    connection: &Arc<Connection>,
    request: ConfigFuzzyWatchRequest,
) -> Result<Payload, Refused> {
    let answer = |outcome: Outcome| Payload::new(FUZZY_WATCH_RESPONSE, &outcome);
    let refuse = |outcome| Box::new(answer(outcome));
    let text = request.group_key_pattern.unwrap_or_default();
    match request.watch_type.as_deref() {
        Some("WATCH") | None => {}
        Some("CANCEL_WATCH") => {
            connection.patterns.cancel(&connection.watcher, &text);
            return Ok(answer(Outcome::ok()));
        }
        Some(_) => return Err(refuse(invalid("invalid watchType: WATCH or CANCEL_WATCH"))),
    }
    let pattern = KeyPattern::parse(&text).map_err(|err| refuse(invalid(err.to_string())))?;
    let received = request.received_group_keys.unwrap_or_default();
    if received.len() > limits::STREAM_KEYS_MAX {
        return Err(refuse(invalid(format!("too many receivedGroupKeys, over {}", limits::STREAM_KEYS_MAX))));
    }
    connection.catch_up(&api.services).await;
    let asked = patterns::Asked {
        text,
        pattern,
        known: received.into_iter().flatten().filter_map(|it| parse_group_key(&it)).collect(),
        initializing: request.initializing.unwrap_or_default(),
    };
    connection.patterns.watch(&connection.watcher, &api.services, asked).map_err(|limit| {
        refuse(match limit {
            Limit::Patterns => {
                let why = format!("a connection watches at most {} patterns", limits::STREAM_PATTERNS_MAX);
                Outcome::failed(code::TOO_MANY_PATTERNS, why)
            }
            Limit::Keys => {
                let why = format!("the patterns of a connection match more than {} keys", limits::STREAM_KEYS_MAX);
                Outcome::failed(code::TOO_MANY_MATCHES, why)
            }
        })
    })?;
    Ok(answer(Outcome::ok()))
}

fn spelling(context: &ConfigListenContext) -> Spelling {
    if context.tenant.as_ref().is_none_or(|it| it.trim().is_empty()) { Spelling::Blank } else { Spelling::Named }
}

fn interest(context: &ConfigListenContext) -> Result<Interest, Outcome> {
    let key = key(context.data_id.as_deref(), context.group.as_deref(), context.tenant.as_deref())?;
    let md5 = context.md5.as_deref().map(str::trim).filter(|it| !it.is_empty());
    let seen = md5.map_or(Seen::Absent, |md5| Digest::from_hex(md5).map_or(Seen::Unrecognized, Seen::Digest));
    Ok(Interest { key, seen })
}
