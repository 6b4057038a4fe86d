//! `/v1/cs/configs`: publish, query, remove.
use std::{collections::BTreeSet, sync::Arc};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::{
    Api,
    answer::{
        Answer, Envelope, caused, envelope, failure, http_date, illegal_name, json as json_answer, plain, with_revision,
    },
    call::Call,
};
use crate::{
    nacos::publishing::{Asked, Refusal, variant_to_remove},
    service::Found,
    types::{ConfigKey, ConfigRecord, ContentType, Publication, Revision, Variant, limits},
};

static CONFIG_TYPE: HeaderName = HeaderName::from_static("config-type");
/// The revision that wrote the content.
static CONTENT_REVISION: HeaderName = HeaderName::from_static("coracle-content-revision");
static CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
static ENCRYPTED_DATA_KEY: HeaderName = HeaderName::from_static("encrypted-data-key");
static IS_BETA: HeaderName = HeaderName::from_static("isbeta");
static TAG: HeaderName = HeaderName::from_static("tag");

type Refused = Box<Answer>;

/// So many headers has a content, most often.
const CONTENT_HEADERS: usize = 10;

/// What clients and proxies must not keep.
pub(super) fn never_cache(headers: &mut HeaderMap) {
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert(header::EXPIRES, HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache,no-store"));
}

pub(super) async fn publish(api: &Api, call: Call) -> Answer {
    let asked = call.request_id().and_then(|id| Ok((publication(api, call)?, id)));
    let (publication, id) = match asked {
        Ok(asked) => asked,
        Err(refused) => return *refused,
    };
    match api.services.publish(publication, id).await {
        Ok(written) => with_revision(plain(StatusCode::OK, "true"), written.revision),
        Err(err) => failure(&err),
    }
}

fn publication(api: &Api, mut call: Call) -> Result<Publication, Refused> {
    call.check_names()?;
    for name in ["dataId", "group", "content"] {
        call.required(name)?;
    }
    let key = call.key()?;
    asked(&mut call, "src_user", "config_tags").publication(key, api.content_bytes_max).map_err(|refusal| match refusal
    {
        Refusal::Name(err) => illegal_name(&err),
        Refusal::Content(why) | Refusal::Description(why) => Box::new(caused(&why)),
    })
}

/// What a publish asks for; the names of two parameters differ from version to version.
pub(super) fn asked(call: &mut Call, user: &str, config_tags: &str) -> Asked {
    let header = |name| call.header(name).map(str::to_owned);
    let (beta_ips, cas_md5, ip) = (header("betaips"), header("casmd5"), call.ip());
    let user = call.params.filled(user).or_else(|| call.params.filled("username")).map(str::to_owned);
    let params = &mut call.params;
    Asked {
        content: params.take("content"),
        tag: params.take("tag"),
        beta_ips,
        cas_md5,
        user,
        ip,
        content_type: params.take("type"),
        app_name: params.take("appName"),
        config_tags: params.take(config_tags),
        description: params.take("desc"),
        usage: params.take("use"),
        effect: params.take("effect"),
        schema: params.take("schema"),
        encrypted_data_key: params.take("encryptedDataKey"),
    }
}

pub(super) async fn query(api: &Api, call: &Call) -> Answer {
    let asked: Result<_, Refused> = (|| Ok((call.key()?, call.labels()?, call.consistency(api.clients.reads)?)))();
    let (key, labels, consistency) = match asked {
        Ok(asked) => asked,
        Err(refused) => return *refused,
    };
    let read = match api.services.get(&key, &labels, consistency).await {
        Ok(read) => read,
        Err(err) => return failure(&err),
    };
    let Some(found) = read.value else { return with_revision(not_found(), read.revision) };
    match api.services.content_type(&key, &found).await {
        Ok(content_type) => with_revision(content(&found, content_type), read.revision),
        Err(err) => failure(&err),
    }
}

fn not_found() -> Answer {
    plain(StatusCode::NOT_FOUND, "config data not exist\n")
}

pub(super) fn content(found: &Found, content_type: ContentType) -> Answer {
    let Found { variant, record } = found;
    let attributes = &record.attributes;
    let mut answer = Answer::new(record.content.bytes().into());
    let headers = answer.headers_mut();
    headers.reserve(CONTENT_HEADERS);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain;charset=UTF-8"));
    headers.insert(&CONFIG_TYPE, HeaderValue::from_static(content_type.as_str()));
    let text = |text: &str| HeaderValue::from_str(text).ok();
    headers.extend(text(&record.content.digest().to_hex()).map(|md5| (CONTENT_MD5.clone(), md5)));
    headers.insert(&CONTENT_REVISION, HeaderValue::from(record.modified.0));
    headers.extend(http_date(record.modified_at).map(|at| (header::LAST_MODIFIED, at)));
    never_cache(headers);
    match (variant, &attributes.encrypted_data_key) {
        (_, Some(key)) => headers.extend(text(key).map(|key| (ENCRYPTED_DATA_KEY.clone(), key))),
        (Variant::Formal, None) => drop(headers.insert(&ENCRYPTED_DATA_KEY, HeaderValue::from_static(""))),
        (Variant::Beta | Variant::Tag(_), None) => {}
    }
    match variant {
        Variant::Formal => {}
        Variant::Beta => drop(headers.insert(&IS_BETA, HeaderValue::from_static("true"))),
        Variant::Tag(tag) => headers.extend(text(tag.as_str()).map(|tag| (TAG.clone(), tag))),
    }
    answer
}

pub(super) async fn query_beta(api: &Api, call: &Call) -> Answer {
    let asked: Result<_, Refused> = (|| Ok((call.key()?, call.consistency(api.clients.reads)?)))();
    let (key, consistency) = match asked {
        Ok(asked) => asked,
        Err(refused) => return *refused,
    };
    match api.services.get_variant(&key, &Variant::Beta, consistency).await {
        Ok(read) => {
            let data = read.value.map(|record| {
                let mut data = summary(&key, &record);
                data["encryptedDataKey"] = json!(record.attributes.encrypted_data_key);
                data["type"] = Value::Null;
                data["betaIps"] = json!(record.beta_ips.join(","));
                data
            });
            with_revision(envelope(Some("query beta ok"), data), read.revision)
        }
        Err(err) => failure(&err),
    }
}

/// The fields that all descriptions of a configuration begin with.
pub(super) fn summary(key: &ConfigKey, record: &ConfigRecord) -> Value {
    let attributes = &record.attributes;
    json!({
        "id": record.created.0.to_string(),
        "dataId": key.data_id(),
        "group": key.group(),
        "content": record.content.text(),
        "md5": record.content.digest().to_hex(),
        "encryptedDataKey": attributes.encrypted_data_key.as_deref().unwrap_or_default(),
        "tenant": key.namespace(),
        "appName": attributes.app_name.as_deref().unwrap_or_default(),
        "type": attributes.content_type.as_str(),
    })
}

/// The fields that tell who and what for.
fn details(record: &ConfigRecord) -> Value {
    let attributes = &record.attributes;
    json!({
        // Nacos shows the last change in both.
        "createTime": record.modified_at.0,
        "modifyTime": record.modified_at.0,
        "createUser": record.author.user.as_deref(),
        "createIp": &*record.author.ip,
        "desc": attributes.description,
        "use": attributes.usage,
        "effect": attributes.effect,
        "type": attributes.content_type.as_str(),
        "schema": attributes.schema,
        "configTags": attributes.config_tags,
    })
}

async fn formal(
    api: &Api,
    call: &Call,
) -> Result<(ConfigKey, crate::service::Read<Option<Arc<ConfigRecord>>>), Refused> {
    let (key, consistency) = (call.key()?, call.consistency(api.clients.reads)?);
    let read = api.services.get_variant(&key, &Variant::Formal, consistency).await;
    Ok((key, read.map_err(|err| Box::new(failure(&err)))?))
}

pub(super) async fn show_all(api: &Api, call: &Call) -> Answer {
    let (key, read) = match formal(api, call).await {
        Ok(read) => read,
        Err(refused) => return *refused,
    };
    let answer = match read.value {
        Some(record) => {
            let mut all = summary(&key, &record);
            if let (Value::Object(all), Value::Object(details)) = (&mut all, details(&record)) {
                all.extend(details);
            }
            json_answer(&all)
        }
        None => plain(StatusCode::OK, ""),
    };
    with_revision(answer, read.revision)
}

pub(super) async fn catalog(api: &Api, call: &Call) -> Answer {
    match formal(api, call).await {
        Ok((_, read)) => with_revision(envelope(None, read.value.map(|record| details(&record))), read.revision),
        Err(refused) => *refused,
    }
}

pub(super) async fn remove(api: &Api, call: &Call) -> Answer {
    let asked = (|| -> Result<_, Refused> {
        let key = call.key()?;
        let variant = variant_to_remove(call.params.get("tag")).map_err(|err| illegal_name(&err))?;
        Ok((key, variant, call.request_id()?))
    })();
    let (key, variant, id) = match asked {
        Ok(asked) => asked,
        Err(refused) => return *refused,
    };
    match api.services.remove(key, variant, id).await {
        Ok(written) => with_revision(plain(StatusCode::OK, "true"), written.revision),
        Err(err) => failure(&err),
    }
}

pub(super) async fn stop_beta(api: &Api, call: &Call) -> Answer {
    let (key, id) = match call.key().and_then(|key| Ok((key, call.request_id()?))) {
        Ok(asked) => asked,
        Err(refused) => return *refused,
    };
    match api.services.remove(key, Variant::Beta, id).await {
        Ok(written) if written.changed => with_revision(envelope(Some("stop beta ok"), true), written.revision),
        Ok(written) => {
            let none = Envelope { code: 500, message: Some("remove beta data error"), data: false, no_right: false };
            with_revision(json_answer(&none), written.revision)
        }
        Err(err) => failure(&err),
    }
}

pub(super) async fn remove_ids(api: &Api, call: &Call) -> Answer {
    let created = match call.required("ids").and_then(|it| ids(it).map_err(|why| Box::new(caused(&why)))) {
        Ok(created) => created,
        Err(refused) => return *refused,
    };
    match api.services.remove_created(&created).await {
        Ok(Some(revision)) => with_revision(envelope(None, true), revision),
        Ok(None) => envelope(None, true),
        Err(err) => failure(&err),
    }
}

/// Ids as they are listed; or why not.
pub(super) fn ids(text: &str) -> Result<BTreeSet<Revision>, String> {
    let mut created = BTreeSet::new();
    for id in text.split(',').map(str::trim).filter(|id| !id.is_empty()) {
        match id.parse() {
            Ok(number) => drop(created.insert(Revision(number))),
            Err(_) => return Err(format!("parameter 'ids' has something that is not a number: {id:?}")),
        }
        if created.len() > limits::REMOVED_IDS_MAX {
            return Err(format!("parameter 'ids' has more than {} ids", limits::REMOVED_IDS_MAX));
        }
    }
    Ok(created)
}
