{{/* What the chart is called in names and labels. */}}
{{- define "keybound.chart" -}}
{{ .Values.nameOverride | default .Chart.Name }}
{{- end }}

{{/* The name of everything here. */}}
{{- define "keybound.name" -}}
{{- $chart := include "keybound.chart" . -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride }}
{{- else if contains $chart .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ $chart }}{{ end }}
{{- end }}

{{/* What tells our pods from others. It must never change. */}}
{{- define "keybound.selector" -}}
app.kubernetes.io/name: {{ include "keybound.chart" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "keybound.labels" -}}
{{ include "keybound.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "keybound.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (ternary (include "keybound.name" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "keybound.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* The configuration file. Where it listens is the chart's affair, for the Service and the probes. */}}
{{- define "keybound.config" -}}
{{- if not .Values.config }}
{{- fail "config: say whom to trust and what to demand, for example {issuers: [{issuer: https://as.example.com, audiences: [https://api.example.com]}], policies: [{name: api, sender_constraint: certificate}]}; all that it may say is in docs/configuration.md" }}
{{- end }}
{{- $listen := dict "admin" (printf "%s:9003" .Values.address) }}
{{- $fronts := dict "ext_authz" "9001" }}
{{- if .Values.forwardAuth.enabled }}{{ $_ := set $fronts "forward_auth" "9002" }}{{ end }}
{{- range $front, $port := $fronts }}
{{- $address := printf "%s:%s" $.Values.address $port }}
{{- if $.Values.socket.hostPath }}{{ $address = printf "unix:/run/keybound/%s.sock" $front }}{{ end }}
{{- $_ := set $listen $front $address }}
{{- end }}
{{- if .Values.events.enabled }}
{{- $_ := set $listen "events" (dict "address" (printf "%s:9004" .Values.address)) }}
{{- end }}
{{- toYaml (mustMergeOverwrite (deepCopy .Values.config) (dict "listen" $listen)) }}
{{- end }}

{{/* What takes effect only with a restart: all of it, or what keybound cannot reload. */}}
{{- define "keybound.restart" -}}
{{- $config := include "keybound.config" . }}
{{- if not .Values.restartOnChange }}
{{- $config = pick (fromYaml $config) "listen" "forward_auth" "telemetry" | toYaml }}
{{- end }}
{{- sha256sum $config }}
{{- end }}

{{/* A duration in whole seconds, rounded up. */}}
{{- define "keybound.seconds" -}}
{{- $number := regexFind "^[0-9]+" . | int }}
{{- if hasSuffix "ms" . }}{{ div (add $number 999) 1000 }}
{{- else if hasSuffix "m" . }}{{ mul $number 60 }}
{{- else }}{{ $number }}
{{- end }}
{{- end }}

{{/* Whether a policy demands DPoP proofs while several replicas each remember their own. */}}
{{- define "keybound.separateProofs" -}}
{{- $several := or (ne .Values.kind "Deployment") .Values.autoscaling.enabled (gt (int .Values.replicaCount) 1) }}
{{- $demanded := false }}
{{- range .Values.config.policies }}
{{- if has .sender_constraint (list "dpop" "either") }}{{ $demanded = true }}{{ end }}
{{- end }}
{{- $store := dig "dpop" "replay" "store" "" .Values.config }}
{{- if and $several $demanded (ne $store "redis") }}{{ $store | default "unsaid" }}{{ end }}
{{- end }}
