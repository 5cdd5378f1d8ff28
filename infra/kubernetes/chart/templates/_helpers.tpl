{{- define "seatrial.labels" -}}
app.kubernetes.io/name: seatrial
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: seatrial
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* What a component's pods are selected by: (dict "root" $ "component" "gateway") */}}
{{- define "seatrial.selector" -}}
app.kubernetes.io/name: seatrial
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "seatrial.metadata" -}}
name: {{ .root.Release.Name }}-{{ .component }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "seatrial.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels by which a Prometheus chooses what it reads; they end the labels of seatrial.metadata. */}}
{{- define "seatrial.monitored" -}}
{{- range $name, $value := .Values.metrics.labels }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* An image by digest: (dict "root" $ "image" "..." "value" "images.platform") */}}
{{- define "seatrial.image" -}}
{{- $image := required (printf "%s is required: NAME@sha256:DIGEST" .value) .image -}}
{{- if and (not .root.Values.images.allowTags) (not (regexMatch "@sha256:[0-9a-f]{64}$" $image)) -}}
{{- fail (printf "%s is %q: pin it by digest (NAME@sha256:...), or set images.allowTags for a cluster without a registry" .value $image) -}}
{{- end -}}
{{- if hasSuffix ":latest" $image }}{{ fail (printf "%s is %q: latest is no version" .value $image) }}{{ end -}}
{{- $image -}}
{{- end }}

{{/* A value as text; YAML's numbers arrive as floats, and 68719476736 would become 6.8e+10. */}}
{{- define "seatrial.plain" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end }}

{{- define "seatrial.prefectUrl" -}}
{{ .Values.prefect.url | default (printf "http://%s-prefect:4200/api" .Release.Name) }}
{{- end }}

{{- define "seatrial.mlflowUrl" -}}
{{ .Values.mlflow.url | default (printf "http://%s-mlflow:5000" .Release.Name) }}
{{- end }}

{{/* Keys of the Secret and what reads them. */}}
{{- define "seatrial.secrets" -}}
database-url: SEATRIAL_DATABASE_URL
operator-key: SEATRIAL_OPERATOR_KEY
prefect-database-url: PREFECT_API_DATABASE_CONNECTION_URL
mlflow-database-url: MLFLOW_BACKEND_STORE_URI
redis-url: SEATRIAL_REDIS_URL
hub-token: SEATRIAL_HUB_TOKEN
synthetic-key: SEATRIAL_SYNTHETIC_KEY
webhook-secret: SEATRIAL_BENCHMARKS_WEBHOOK_SECRET
ranker-key: SEATRIAL_BENCHMARKS_RANKER_KEY
{{- end }}

{{/* Refuses what would stand in plain in the ConfigMap. */}}
{{- define "seatrial.noSecrets" -}}
{{- $root := . -}}
{{- range $key, $variable := include "seatrial.secrets" . | fromYaml }}
{{- $name := trimPrefix "SEATRIAL_" $variable | lower }}
{{- if hasKey $root.Values.settings $name }}
{{- fail (printf "settings.%s is a secret: put it into the Secret %q under the key %s" $name $root.Values.secret $key) }}
{{- end }}
{{- end }}
{{- range $group := list "settings" "engines" }}
{{- range $name, $value := get $root.Values $group }}
{{- if or (regexMatch "://[^/@]*:[^/@]+@" (toString $value)) (and (eq $name "environ") (regexMatch "(?i)(token|key|secret|password)=" (toString $value))) }}
{{- fail (printf "%s.%s holds a password or a key, and would stand in plain in a ConfigMap" $group $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The settings as environment: the same for every process of ours. What is given under `engines` and `settings` goes before what is made here. */}}
{{- define "seatrial.settings" -}}
{{- include "seatrial.noSecrets" . -}}
{{- $all := dict
  "SEATRIAL_HOME" "/var/lib/seatrial"
  "SEATRIAL_BIND_HOST" "0.0.0.0"
  "SEATRIAL_WEIGHTS_URL" (required "weights.url is required: s3://bucket/prefix" .Values.weights.url)
  "SEATRIAL_S3_ENDPOINT_URL" .Values.weights.endpoint
  "SEATRIAL_PREFECT_API_URL" (include "seatrial.prefectUrl" .)
  "SEATRIAL_MLFLOW_URL" (include "seatrial.mlflowUrl" .)
  "SEATRIAL_CONTROL_URL" (printf "http://%s-control:8700" .Release.Name)
  "SEATRIAL_GATEWAY_URL" (printf "http://%s-gateway:8800" .Release.Name)
  "SEATRIAL_PUBLIC_URL" .Values.publicUrl
  "SEATRIAL_ENGINES_URL" (printf "kubernetes://%s" .Release.Namespace)
  "SEATRIAL_KUBERNETES_INSTALLATION" .Release.Name
  "SEATRIAL_ENGINE_FORK_SERVER" "0"
  "SEATRIAL_TENSORIZE_PYTHON" "/opt/engine/bin/python"
  "SEATRIAL_KUBERNETES_IMAGE" (include "seatrial.image" (dict "root" . "image" .Values.images.engine "value" "images.engine"))
  "SEATRIAL_KUBERNETES_SERVICE_ACCOUNT" (printf "%s-engine" .Release.Name)
  "SEATRIAL_KUBERNETES_PULL_SECRET" .Values.images.pullSecret
  "SEATRIAL_KUBERNETES_WEIGHTS_SECRET" (.Values.weights.engineSecret | default .Values.weights.secret)
  "SEATRIAL_KUBERNETES_METRICS_NAMESPACE" .Values.metrics.namespace
  "PREFECT_API_URL" (include "seatrial.prefectUrl" .)
  "PREFECT_HOME" "/var/lib/seatrial/prefect"
  "PREFECT_SERVER_ANALYTICS_ENABLED" "false"
  "PREFECT_CLI_PROMPT" "false"
  "MLFLOW_TRACKING_URI" (include "seatrial.mlflowUrl" .)
  "MLFLOW_DISABLE_TELEMETRY" "true"
  "DO_NOT_TRACK" "true"
  "HOME" "/var/lib/seatrial"
  "PYTHONUNBUFFERED" "1" }}
{{- with .Values.weights.region }}{{ $_ := set $all "AWS_REGION" . }}{{ end }}
{{- if .Values.images.allowTags }}{{ $_ := set $all "SEATRIAL_KUBERNETES_ALLOW_TAGS" "1" }}{{ end }}
{{- if eq .Values.worker.mode "kubernetes" }}
{{- $_ := set $all "SEATRIAL_KUBERNETES_CALLERS" "gateway,worker,run" }}
{{- $_ := set $all "SEATRIAL_PICKUP_S" "600" }}{{/* a run's pod may wait for a node and an image */}}
{{- end }}
{{- range $name, $value := .Values.engines }}{{ $_ := set $all (printf "SEATRIAL_KUBERNETES_%s" (upper $name)) (include "seatrial.plain" $value) }}{{ end }}
{{- range $name, $value := .Values.settings }}{{ $_ := set $all (printf "SEATRIAL_%s" (upper $name)) (include "seatrial.plain" $value) }}{{ end }}
{{- toYaml $all }}
{{- end }}

{{/* Environment of a process of ours: settings, and from the Secret what it needs: (dict "root" $ "keys" (list ...)) */}}
{{- define "seatrial.env" -}}
{{- $secret := .root.Values.secret -}}
{{- $names := include "seatrial.secrets" .root | fromYaml -}}
{{- $needed := list "database-url" "operator-key" "prefect-database-url" "mlflow-database-url" -}}
{{- range $key := .keys }}
- name: {{ get $names $key }}
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ $key }}{{ if not (has $key $needed) }}, optional: true{{ end }}}
{{- end }}
{{- if and .s3 .root.Values.weights.secret }}
{{- range $key := list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ $key }}
  valueFrom:
    secretKeyRef: {name: {{ $.root.Values.weights.secret }}, key: {{ $key }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "seatrial.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "seatrial.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What all pods of ours have: (dict "root" $ "component" "gateway" "token" false) */}}
{{- define "seatrial.podSpec" -}}
serviceAccountName: {{ .root.Release.Name }}-{{ .component }}
automountServiceAccountToken: {{ .token | default false }}
enableServiceLinks: false
securityContext:
  {{- include "seatrial.podSecurity" .root | nindent 2 }}
{{- with .root.Values.images.pullSecret }}
imagePullSecrets: [{name: {{ . }}}]
{{- end }}
{{- with .root.Values.placement.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .root.Values.placement.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "seatrial.selector" . | nindent 8 }}
{{- end }}

{{/* What a container that downloads and tensorizes asks for: the room too that its scratch may take, lest it be evicted for it. */}}
{{- define "seatrial.withScratch" -}}
{{- merge (deepCopy .Values.worker.resources) (dict "requests" (dict "ephemeral-storage" .Values.worker.scratch)) | toJson }}
{{- end }}

{{- define "seatrial.mounts" -}}
- {name: home, mountPath: /var/lib/seatrial}
- {name: tmp, mountPath: /tmp}
{{- end }}

{{- define "seatrial.envFrom" -}}
- configMapRef: {name: {{ .Release.Name }}-settings}
{{- end }}

{{/* Migrates before the service starts; whoever comes first does it under the database's lock. */}}
{{- define "seatrial.prepare" -}}
- name: prepare
  image: {{ include "seatrial.image" (dict "root" .root "image" .image "value" "images") }}
  command: [python, -m, infra.entrypoints.prepare]
  envFrom:
    {{- include "seatrial.envFrom" .root | nindent 4 }}
  env:
    {{- include "seatrial.env" (dict "root" .root "keys" (list "database-url" "operator-key")) | nindent 4 }}
  resources: {requests: {cpu: 100m, memory: 256Mi}, limits: {memory: 512Mi}}
  securityContext:
    {{- include "seatrial.containerSecurity" .root | nindent 4 }}
  volumeMounts:
    {{- include "seatrial.mounts" .root | nindent 4 }}
{{- end }}

{{/* Rolls pods when the settings change. */}}
{{- define "seatrial.checksum" -}}
seatrial.dev/settings: {{ include "seatrial.settings" . | sha256sum | trunc 16 | quote }}
{{- end }}
