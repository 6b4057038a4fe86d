//! Configurations in v2 (`/v2/cs/config`) and v3 (`/v3/client/cs/config`, `/v3/admin/cs/config`): what v1 does, under other
//! names and in an envelope.
use axum::http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use super::{
    Api,
    answer::{Answer, plain, with_revision},
    call::Call,
    config,
    result::{self, Failed},
    search, wrong_method,
};
use crate::{
    nacos::{names, publishing::variant_to_remove},
    service::{Filter, Found, Read},
    types::{ConfigKey, ConfigRecord, ContentType, Tag, Variant},
};

/// Nacos: the size of a page that nobody asked for.
const PAGE_SIZE: usize = 100;
/// Nacos: `AbstractGrayRule.PRIORITY` of the rule for beta versions.
const BETA_PRIORITY: i32 = i32::MAX;

type Outcome = Result<Answer, Box<Answer>>;

/// How a version calls the group; all else is called alike in v2 and v3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dialect {
    group: &'static str,
}

pub(super) const V2: Dialect = Dialect { group: "group" };
pub(super) const V3: Dialect = Dialect { group: "groupName" };

impl Dialect {
    /// The key that the request names. What is blank is missing; what is illegal is found before it.
    fn key(self, call: &Call) -> Result<ConfigKey, Failed> {
        let get = |name| call.params.get(name);
        let namespace = get("namespaceId").unwrap_or_default();
        names::check(get("dataId"), get(self.group), namespace)?;
        let named = |name| call.params.filled(name).ok_or_else(|| Failed::missing(name));
        Ok(names::key(named("dataId")?, named(self.group)?, namespace)?)
    }

    pub(super) async fn publish(self, api: &Api, mut call: Call) -> Outcome {
        let key = self.key(&call)?;
        // Nacos 3.0.3 takes it for the formal version and writes over that.
        if call.params.filled("grayName").is_some() {
            let why = "grayName is not served: publish with a header betaIps, or with a parameter tag";
            return Err(Failed::refused(result::INVALID, why).into());
        }
        if call.params.filled("content").is_none() {
            return Err(Failed::missing("content").into());
        }
        let id = call.request_id()?;
        let asked = config::asked(&mut call, "srcUser", "configTags");
        let publication = asked.publication(key, api.content_bytes_max).map_err(Failed::from)?;
        let written = api.services.publish(publication, id).await.map_err(Failed::from)?;
        Ok(result::ok_at(true, written.revision))
    }

    pub(super) async fn remove(self, api: &Api, call: &Call) -> Outcome {
        let key = self.key(call)?;
        let variant = variant_to_remove(call.params.get("tag")).map_err(Failed::from)?;
        let written = api.services.remove(key, variant, call.request_id()?).await.map_err(Failed::from)?;
        Ok(result::ok_at(true, written.revision))
    }

    /// The version that the client sees, and its type.
    async fn found(self, api: &Api, call: &Call) -> Result<Read<Option<(Found, ContentType)>>, Box<Answer>> {
        let key = self.key(call)?;
        // First: what follows refuses it in the words of v1.
        call.params.filled("tag").map(Tag::parse).transpose().map_err(Failed::from)?;
        let read = api.services.get(&key, &call.labels()?, call.consistency(api.clients.reads)?).await;
        let Read { value, revision } = read.map_err(Failed::from)?;
        let Some(found) = value else { return Ok(Read { value: None, revision }) };
        let content_type = api.services.content_type(&key, &found).await.map_err(Failed::from)?;
        Ok(Read { value: Some((found, content_type)), revision })
    }
}

/// `/v2/cs/config`.
pub(super) async fn v2(api: &Api, call: Call) -> Outcome {
    match call.method {
        Method::GET | Method::HEAD => query(api, &call).await,
        Method::POST => V2.publish(api, call).await,
        Method::DELETE => V2.remove(api, &call).await,
        _ => Ok(wrong_method(api, &call, "GET, POST, DELETE")),
    }
}

async fn query(api: &Api, call: &Call) -> Outcome {
    let read = V2.found(api, call).await?;
    let Some((found, content_type)) = read.value else {
        let missing = Failed::not_found(result::NOT_FOUND, "config data not exist").answer();
        return Ok(with_revision(missing, read.revision));
    };
    let (head, _) = config::content(&found, content_type).into_parts();
    let (_, body) = result::ok(found.record.content.text()).into_parts();
    let mut answer = Answer::from_parts(head, body);
    let json = HeaderValue::from_static("application/json;charset=UTF-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(with_revision(answer, read.revision))
}

/// `/v2/cs/config/searchDetail`: a page without an envelope, as in v1.
pub(super) async fn search_detail(api: &Api, call: Call) -> Outcome {
    if call.method != Method::GET {
        return Ok(wrong_method(api, &call, "GET"));
    }
    for name in ["dataId", "group", "config_detail", "pageNo", "pageSize"] {
        call.params.get(name).ok_or_else(|| Failed::missing(name))?;
    }
    // Nacos calls the namespace `tenant` here, unlike anywhere else in v2.
    let asked = search::Asked {
        data_id: "dataId",
        group: "group",
        namespace: "tenant",
        tags: "config_tags",
        types: "types",
        content: Some("config_detail"),
        blur: call.params.get("search") != Some("accurate"),
    };
    let (filter, page) = (asked.filter(&call)?, asked.page(&call, PAGE_SIZE)?);
    let blur = filter.blur;
    let item = |key: &ConfigKey, record: &ConfigRecord| {
        let mut item = config::summary(key, record);
        if !blur {
            item["encryptedDataKey"] = Value::Null;
        }
        item
    };
    let (value, revision) = pages(api, &call, filter, page, item).await?;
    Ok(with_revision(result::bare(&value), revision))
}

async fn pages(
    api: &Api,
    call: &Call,
    filter: Filter,
    page: search::PageOf,
    item: impl Fn(&ConfigKey, &ConfigRecord) -> Value,
) -> Result<(Value, crate::types::Revision), Box<Answer>> {
    let consistency = call.consistency(api.clients.reads)?;
    let read = api.services.search(filter, page.skip(), page.size, consistency).await.map_err(Failed::from)?;
    let listed = read.value;
    if listed.is_cut {
        return Err(Failed::refused(result::INVALID, search::page_too_large()).into());
    }
    let items: Vec<Value> = listed.items.iter().map(|(key, record)| item(key, record)).collect();
    Ok((page.of(listed.total, items), read.revision))
}

/// `/v3/client/cs/config`.
pub(super) async fn client(api: &Api, call: Call) -> Outcome {
    if call.method != Method::GET {
        return Ok(wrong_method(api, &call, "GET"));
    }
    // As recorded: this one says in the words of v1 what is missing.
    if let Err(failed) = V3.key(&call)
        && failed.code == result::MISSING
    {
        let mut answer = plain(StatusCode::BAD_REQUEST, format!("caused: {};", failed.why));
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain;charset=UTF-8"));
        return Ok(answer);
    }
    let read = V3.found(api, &call).await?;
    let Some((Found { variant, record }, content_type)) = read.value else {
        return Ok(with_revision(result::absent(), read.revision));
    };
    let attributes = &record.attributes;
    let formal = variant == Variant::Formal;
    let key = attributes.encrypted_data_key.as_deref();
    let data = json!({
        "resultCode": 200,
        "errorCode": 0,
        "message": null,
        "requestId": null,
        "content": record.content.text(),
        "encryptedDataKey": if formal { Some(key.unwrap_or_default()) } else { key },
        "contentType": content_type.as_str(),
        "md5": record.content.digest().to_hex(),
        "lastModified": record.modified_at.0,
        "tag": null,
        "beta": variant == Variant::Beta,
        "success": true,
    });
    Ok(result::ok_at(data, read.revision))
}

/// `/v3/admin/cs/config`.
pub(super) async fn admin(api: &Api, call: Call) -> Outcome {
    match call.method {
        Method::GET | Method::HEAD => detail(api, &call).await,
        Method::POST => V3.publish(api, call).await,
        Method::DELETE => V3.remove(api, &call).await,
        _ => Ok(wrong_method(api, &call, "GET, POST, DELETE")),
    }
}

/// What all descriptions of a configuration begin with in v3.
fn basics(key: &ConfigKey, record: &ConfigRecord) -> Value {
    json!({
        "id": record.created.0.to_string(),
        "namespaceId": key.namespace(),
        "groupName": key.group(),
        "dataId": key.data_id(),
        "md5": record.content.digest().to_hex(),
        "type": record.attributes.content_type.as_str(),
        "appName": record.attributes.app_name.as_deref().unwrap_or_default(),
        // Nacos shows the last change in both.
        "createTime": record.modified_at.0,
        "modifyTime": record.modified_at.0,
    })
}

async fn detail(api: &Api, call: &Call) -> Outcome {
    let key = V3.key(call)?;
    let read = api.services.get_variant(&key, &Variant::Formal, call.consistency(api.clients.reads)?).await;
    let read = read.map_err(Failed::from)?;
    let Some(record) = read.value else {
        let missing = Failed::not_found(result::NOT_FOUND, "Config not exist, please publish Config first.").answer();
        return Ok(with_revision(missing, read.revision));
    };
    let mut detail = basics(&key, &record);
    detail["content"] = json!(record.content.text());
    detail["desc"] = json!(record.attributes.description);
    detail["encryptedDataKey"] = json!(record.attributes.encrypted_data_key.as_deref().unwrap_or_default());
    detail["createUser"] = json!(record.author.user.as_deref());
    detail["createIp"] = json!(&*record.author.ip);
    detail["configTags"] = json!(record.attributes.config_tags);
    Ok(result::ok_at(detail, read.revision))
}

/// `/v3/admin/cs/config/list`: without the contents.
pub(super) async fn list(api: &Api, call: Call) -> Outcome {
    if call.method != Method::GET {
        return Ok(wrong_method(api, &call, "GET"));
    }
    let asked = search::Asked {
        data_id: "dataId",
        group: "groupName",
        namespace: "namespaceId",
        tags: "configTags",
        types: "type",
        content: Some("configDetail"),
        blur: call.params.get("search") != Some("accurate"),
    };
    let (filter, page) = (asked.filter(&call)?, asked.page(&call, PAGE_SIZE)?);
    let (value, revision) = pages(api, &call, filter, page, basics).await?;
    Ok(result::ok_at(value, revision))
}

/// `/v3/admin/cs/config/batch`.
pub(super) async fn batch(api: &Api, call: Call) -> Outcome {
    if call.method != Method::DELETE {
        return Ok(wrong_method(api, &call, "DELETE"));
    }
    let ids = call.params.filled("ids").ok_or_else(|| Failed::missing("ids"))?;
    let ids = config::ids(ids).map_err(|why| Failed::refused(result::INVALID, why))?;
    let last = api.services.remove_created(&ids).await.map_err(Failed::from)?;
    Ok(last.map_or_else(|| result::ok(true), |revision| result::ok_at(true, revision)))
}

/// `/v3/admin/cs/config/beta`.
pub(super) async fn beta(api: &Api, call: Call) -> Outcome {
    let key = V3.key(&call)?;
    if call.method == Method::DELETE {
        let written = api.services.remove(key, Variant::Beta, call.request_id()?).await.map_err(Failed::from)?;
        let answer = if written.changed { result::ok(true) } else { result::nothing_done("remove beta data error") };
        return Ok(with_revision(answer, written.revision));
    }
    if call.method != Method::GET {
        return Ok(wrong_method(api, &call, "GET, DELETE"));
    }
    let read = api.services.get_variant(&key, &Variant::Beta, call.consistency(api.clients.reads)?).await;
    let read = read.map_err(Failed::from)?;
    let Some(record) = read.value else {
        let none = Failed::not_found(result::NOT_FOUND, "Config is not in beta.").answer();
        return Ok(with_revision(none, read.revision));
    };
    let mut detail = basics(&key, &record);
    let addresses = Value::from(record.beta_ips.join(","));
    detail["grayName"] = json!("beta");
    detail["grayRule"] =
        json!(format!(r#"{{"type":"beta","version":"1.0.0","expr":{addresses},"priority":{BETA_PRIORITY}}}"#));
    detail["content"] = json!(record.content.text());
    detail["encryptedDataKey"] = json!(record.attributes.encrypted_data_key);
    // As recorded: what belongs to the formal version.
    for name in ["type", "desc", "createUser", "createIp", "configTags"] {
        detail[name] = Value::Null;
    }
    Ok(result::ok_at(detail, read.revision))
}
