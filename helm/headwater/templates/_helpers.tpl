{{/*
Names. A StatefulSet's pods carry its name plus an 11-character hash as a label value (63 at most), so the prefix may have
30 characters and a group's name 21; a longer prefix is refused rather than cut, since two cut names could be equal.
*/}}
{{- define "headwater.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $full = default $full .Values.fullnameOverride -}}
{{- if gt (len $full) 30 -}}
{{- fail (printf "the object name prefix %q has %d characters and may have 30: set fullnameOverride" $full (len $full)) -}}
{{- end -}}
{{- $full -}}
{{- end -}}

{{/* What selects this release's pods. With .component (and .group) what selects one part of it. */}}
{{- define "headwater.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .group }}
worker-group: {{ . }}
{{- end }}
{{- end -}}

{{- define "headwater.labels" -}}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{ include "headwater.selector" . }}
{{- end -}}

{{/* Labels of a pod; the selector's labels come last and so cannot be overridden by podLabels. */}}
{{- define "headwater.podLabels" -}}
{{- $own := fromYaml (include "headwater.selector" .) -}}
{{- toYaml (mergeOverwrite (deepCopy .root.Values.podLabels) $own) -}}
{{- end -}}

{{- define "headwater.podAnnotations" -}}
checksum/settings: {{ include "headwater.settings" .root | sha256sum }}
{{- if and .port (eq .root.Values.metrics.scrape "annotations") }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .port | quote }}
prometheus.io/path: /metrics
{{- end }}
{{- with .root.Values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* A digest names one image: that of all is not the one that a group names by a repository or tag of its own. */}}
{{- define "headwater.image" -}}
{{- $own := default dict .image -}}
{{- $image := mergeOverwrite (deepCopy .root.Values.image) $own -}}
{{- $digest := $image.digest -}}
{{- if or $own.repository $own.tag }}{{ $digest = $own.digest }}{{ end -}}
{{- if $digest -}}
{{ $image.repository }}@{{ $digest }}
{{- else -}}
{{ $image.repository }}:{{ default .root.Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{/* Settings that every pod shares and that are no secret. Hook Jobs get them inline: they run before the ConfigMap exists. */}}
{{- define "headwater.settings" -}}
HEADWATER_KAFKA_BOOTSTRAP: {{ .Values.kafka.bootstrap | quote }}
{{- with .Values.kafka.security }}
HEADWATER_KAFKA_SECURITY_PROTOCOL: {{ .protocol | quote }}
{{- if hasPrefix "SASL_" .protocol }}
HEADWATER_KAFKA_SECURITY_MECHANISM: {{ .mechanism | quote }}
{{- end }}
{{- if .tlsSecret }}
HEADWATER_KAFKA_SECURITY_CA: /etc/headwater/kafka-tls/ca.crt
{{- end }}
{{- if .mutualTLS }}
HEADWATER_KAFKA_SECURITY_CERT: /etc/headwater/kafka-tls/tls.crt
HEADWATER_KAFKA_SECURITY_KEY: /etc/headwater/kafka-tls/tls.key
{{- end }}
{{- if .tokenURL }}
HEADWATER_KAFKA_SECURITY_TOKEN_URL: {{ .tokenURL | quote }}
{{- end }}
{{- end }}
HEADWATER_REGISTRY_URL: {{ .Values.registry.url | quote }}
{{- with .Values.registry }}
{{- if .tlsSecret }}
HEADWATER_REGISTRY_CA: /etc/headwater/registry-tls/ca.crt
{{- end }}
{{- if .mutualTLS }}
HEADWATER_REGISTRY_CERT: /etc/headwater/registry-tls/tls.crt
HEADWATER_REGISTRY_KEY: /etc/headwater/registry-tls/tls.key
{{- end }}
{{- end }}
{{- if .Values.redis.tlsSecret }}
HEADWATER_REDIS_CA: /etc/headwater/redis-tls/ca.crt
{{- end }}
{{- if .Values.redis.mutualTLS }}
HEADWATER_REDIS_CERT: /etc/headwater/redis-tls/tls.crt
HEADWATER_REDIS_KEY: /etc/headwater/redis-tls/tls.key
{{- end }}
HEADWATER_STATE_DIR: /var/lib/headwater
{{- if eq "spool" (default "" .Values.settings.HEADWATER_PRODUCER_BACK_PRESSURE) }}
{{- fail "settings.HEADWATER_PRODUCER_BACK_PRESSURE: a spool needs a volume, and not every pod has one: set it in workers.<group>.settings, with persistence" }}
{{- end }}
{{- range $name, $value := .Values.settings }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* Environment entries that read existing Secrets. */}}
{{- define "headwater.secretEnv" -}}
{{- $security := .Values.kafka.security -}}
{{- if hasPrefix "SASL_" $security.protocol }}
{{ include "headwater.secretKey" (list "HEADWATER_KAFKA_SECURITY_USERNAME" $security.credentialsSecret "username") }}
{{ include "headwater.secretKey" (list "HEADWATER_KAFKA_SECURITY_PASSWORD" $security.credentialsSecret "password") }}
{{- end }}
{{- with .Values.registry.credentialsSecret }}
{{ include "headwater.secretKey" (list "HEADWATER_REGISTRY_USERNAME" . "username") }}
{{ include "headwater.secretKey" (list "HEADWATER_REGISTRY_PASSWORD" . "password") }}
{{- end }}
{{- with .Values.redis.urlSecret }}
{{ include "headwater.secretKey" (list "HEADWATER_REDIS_URL" . "url") }}
{{- end }}
{{- end -}}

{{- define "headwater.secretKey" -}}
- name: {{ index . 0 }}
  valueFrom: {secretKeyRef: {name: {{ index . 1 }}, key: {{ index . 2 }}}}
{{- end -}}

{{/* What every pod has in common: no Kubernetes identity, no root, no service links. */}}
{{- define "headwater.podDefaults" -}}
automountServiceAccountToken: false
# Service links would set HEADWATER_*_PORT for this release's own Services, and an unknown HEADWATER_* name is an error.
enableServiceLinks: false
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "headwater.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The root filesystem is read-only: these two folders are writable. */}}
{{- define "headwater.volumeMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: state, mountPath: /var/lib/headwater}
{{- if .Values.kafka.security.tlsSecret }}
- {name: kafka-tls, mountPath: /etc/headwater/kafka-tls, readOnly: true}
{{- end }}
{{- if .Values.registry.tlsSecret }}
- {name: registry-tls, mountPath: /etc/headwater/registry-tls, readOnly: true}
{{- end }}
{{- if .Values.redis.tlsSecret }}
- {name: redis-tls, mountPath: /etc/headwater/redis-tls, readOnly: true}
{{- end }}
{{- end -}}

{{- define "headwater.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 256Mi}
{{- if not .persistence }}
- name: state
  emptyDir: {}
{{- end }}
{{- with .root.Values.kafka.security.tlsSecret }}
- name: kafka-tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .root.Values.registry.tlsSecret }}
- name: registry-tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .root.Values.redis.tlsSecret }}
- name: redis-tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* Spread over zones and nodes where there are any; never keep a pod from starting for it. */}}
{{- define "headwater.spread" -}}
{{- $selector := include "headwater.selector" . -}}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- $selector | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Placement of a pod, from a part's values. */}}
{{- define "headwater.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/*
Startup waits for /livez as long as it was told; then a pod is restarted after a minute without it. Readiness never
depends on lag or Redis, so the three stay apart.
*/}}
{{- define "headwater.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: http}
  periodSeconds: 5
  failureThreshold: {{ ceil (divf .startupSeconds 5) }}
livenessProbe:
  httpGet: {path: /livez, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 3
{{- end -}}

{{/*
A worker group with the defaults filled in: (list root name) gives YAML. Whoever emits into a spool was promised that the
events outlive the pod, which they do on its volume only.
*/}}
{{- define "headwater.worker" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $worker := mergeOverwrite (deepCopy $root.Values.workerDefaults) (deepCopy (index $root.Values.workers $name)) -}}
{{- $settings := default dict $worker.settings -}}
{{- if eq "spool" (default "" $settings.HEADWATER_PRODUCER_BACK_PRESSURE) -}}
{{- if not $worker.persistence -}}
{{- fail (printf "workers.%s: HEADWATER_PRODUCER_BACK_PRESSURE=spool needs a volume, or the events go with the pod: set persistence" $name) -}}
{{- end -}}
{{- $folder := default (default "" $root.Values.settings.HEADWATER_PRODUCER_SPOOL_DIR) $settings.HEADWATER_PRODUCER_SPOOL_DIR -}}
{{- if not (hasPrefix "/var/lib/headwater/" $folder) -}}
{{- fail (printf "workers.%s: HEADWATER_PRODUCER_SPOOL_DIR is %q: name a folder in /var/lib/headwater/, where the volume is" $name $folder) -}}
{{- end -}}
{{- end -}}
{{- toYaml $worker -}}
{{- end -}}

{{/* Ports as a sorted YAML list without repeats: of host:port[,host:port] and of URLs. */}}
{{- define "headwater.kafkaPorts" -}}
{{- $ports := list -}}
{{- range splitList "," .Values.kafka.bootstrap }}{{ $ports = append $ports (splitList ":" . | last | int) }}{{ end -}}
{{- toYaml ($ports | uniq) -}}
{{- end -}}

{{- define "headwater.urlPort" -}}
{{- $url := urlParse . -}}
{{- if contains ":" $url.host -}}
{{- splitList ":" $url.host | last -}}
{{- else -}}
{{- ternary "443" "80" (eq $url.scheme "https") -}}
{{- end -}}
{{- end -}}

{{- define "headwater.registryPorts" -}}
{{- $ports := list (include "headwater.urlPort" .Values.registry.url | int) -}}
{{- with .Values.kafka.security.tokenURL }}{{ $ports = append $ports (include "headwater.urlPort" . | int) }}{{ end -}}
{{- toYaml ($ports | uniq) -}}
{{- end -}}

{{/* One pod of a component at a time is evicted. */}}
{{- define "headwater.disruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "headwater.fullname" .root }}-{{ .component }}
  labels: {{- include "headwater.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "headwater.selector" . | nindent 6 }}
{{- end -}}

{{/* For probes and metrics of pods that nobody calls otherwise. */}}
{{- define "headwater.probedService" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "headwater.fullname" .root }}-{{ .component }}
  labels: {{- include "headwater.labels" . | nindent 4 }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {{- include "headwater.selector" . | nindent 4 }}
  ports:
    - {name: http, port: {{ .port }}, targetPort: http}
{{- end -}}
