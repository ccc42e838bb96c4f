require "fileutils"
require "json"
require "yaml"

# The settings: settings.yml, then what `make up` found out about this machine,
# then settings.local.yml (or the file that SETTINGS_LOCAL names), each over the one before.
module Settings
  # In Vagrant, one of its own, which it shows without a backtrace.
  class Error < (defined?(Vagrant) ? Vagrant::Errors::VagrantError : StandardError)
    # What `raise Error, message` calls: `new` of Vagrant's takes no message.
    def self.exception(message)
      new.exception(message)
    end
  end

  ROOT = File.expand_path("..", __dir__)
  LOCAL = ENV.fetch("SETTINGS_LOCAL", "settings.local.yml")
  FILES = ["settings.yml", ".cache/machine.yml", LOCAL].freeze

  SCHEMA = JSON.parse(File.read(File.join(__dir__, "settings.schema.json"), encoding: "UTF-8")).freeze
  # Files that the VM finds in this folder, if at all.
  IN_THIS_FOLDER = %w[cache_dir image.base_archive network.ca_certificate https.users_file https.acme_ca_certificate].freeze
  # A service has all of these, or none, and then only the other services reach it.
  OF_A_PORT = %w[port host_port health_path].freeze

  module_function

  # Returns the merged settings, without the services that are not enabled. Raises Error with one sentence that names
  # the file's key, the value and what is allowed.
  def load
    merged = FILES.map { |file| read(file) }.reduce { |under, over| merge(under, over) }
    check(merged)
    IN_THIS_FOLDER.each do |key|
      file = merged.dig(*key.split("."))
      next if file == ""

      outside = !File.expand_path(file, ROOT).start_with?("#{ROOT}/")
      raise Error, "The setting #{key} is #{file.inspect}; it must be #{SCHEMA.dig('$defs', 'file', 'description')}." if outside
      next if key == "cache_dir"

      unless File.file?(File.join(ROOT, file))
        raise Error, "#{key} in the settings names #{file.inspect}, and there is no such file in #{ROOT}. " \
                     "Put it there, or change the setting. What is in .cache comes from `make up`."
      end
      next if !key.end_with?("certificate") || File.binread(File.join(ROOT, file)).include?("-----BEGIN CERTIFICATE-----")

      raise Error, "#{key} in the settings names #{file.inspect}, which holds no certificate in PEM form. Export it again " \
                   "in that form; Windows calls it Base-64 encoded X.509."
    end
    merged.merge("services" => enabled(merged))
  end

  # The folder of this computer that is /data in the VM. Raises Error where it cannot be made.
  def data_folder(settings)
    folder = File.expand_path(settings["data_dir"], ROOT)
    FileUtils.mkdir_p(folder)
    folder
  rescue SystemCallError => e
    raise Error, "The folder #{folder} for the data cannot be made (#{e.message.split(' @').first}). " \
                 "Make it, or change data_dir in the settings."
  end

  def read(file)
    path = File.expand_path(file, ROOT)
    return {} unless File.exist?(path)

    text = File.read(path, encoding: "UTF-8")
    raise Error, "#{file} is not written in UTF-8. Save it so: editors ask for the encoding at \"Save as\"." unless text.valid_encoding?

    text = text.delete_prefix("\uFEFF") # Notepad's mark would indent the first line
    check_repetition(file, text)
    settings = YAML.safe_load(text, aliases: true) || {}
    return settings if settings.is_a?(Hash)

    raise Error, "#{file} must hold `key: value` lines, as settings.yml does."
  rescue Psych::SyntaxError => e
    raise Error, "#{file} is not valid YAML at line #{e.line}: #{e.problem}. " \
                 "Compare the spaces at the start of that line with settings.yml."
  rescue Psych::BadAlias => e
    raise Error, "#{file} is not valid YAML: #{e.message}."
  rescue Psych::DisallowedClass
    raise Error, "#{file} has a value that YAML takes for a date or for a name with a colon before it. " \
                 "Put it between quotes, as in \"2026-12-31\"."
  end

  # Of two same keys, YAML takes the last and says nothing.
  def check_repetition(file, text)
    document = YAML.parse_stream(text) # all of it: YAML.parse reads until a line `---`
    raise Error, "#{file} has a line `---` in the middle, below which nothing would count. Remove it." if document.children.size > 1

    document.grep(Psych::Nodes::Mapping).each do |group|
      keys = group.children.each_slice(2).map(&:first).grep(Psych::Nodes::Scalar).group_by(&:value)
      key, (first, second) = keys.find { |_key, places| places.size > 1 }
      next unless key

      raise Error, "#{file} has #{key} twice in one group, at the lines #{first.start_line + 1} and #{second.start_line + 1}. " \
                   "Write what stands below both under the first, and remove the second."
    end
  end

  def merge(under, over)
    under.merge(over) { |_key, a, b| a.is_a?(Hash) && b.is_a?(Hash) ? merge(a, b) : b }
  end

  def enabled(settings)
    settings["services"].reject { |_name, service| service["enabled"] == false }
  end

  def check(settings)
    check_key(nil, settings, SCHEMA)
    settings["services"].each do |name, service|
      missing = ["source", *(OF_A_PORT if (["https_port", *OF_A_PORT] & service.keys).any?)] - service.keys
      raise Error, "The setting services.#{name} has no #{missing.first}." if missing.any?
      other = (service["secrets"] || []).map { |s| s.rpartition("/").first }.find { |s| s != "" && !settings["services"].key?(s) }
      raise Error, "The setting services.#{name}.secrets names the service #{other}, and there is none." if other
      (service["volumes"] || []).each do |volume|
        next if volume["shared"].nil? || "#{volume['source']}/".start_with?("#{volume['shared']}/")

        raise Error, "In services.#{name}.volumes, #{volume['source']} does not lie on the shared folder #{volume['shared']}."
      end
    end
    %w[port host_port https_port https_host_port].each do |key|
      twice = enabled(settings).filter_map { |_, s| s[key] }.tally.find { |_, count| count > 1 }
      raise Error, "Two services have #{key} #{twice.first}; give each a port of its own." if twice
    end
    check_door(settings)
  end

  # Nothing but loopback without a password, unless the person says so.
  def check_door(settings)
    return if settings["host_ip"].start_with?("127.") || settings["open_to_the_network_without_password"]

    missing = %w[domain users_file].find { |key| settings["https"][key].empty? } or return
    raise Error, "host_ip is #{settings['host_ip']}, so that whoever is in the network could read, change and delete users: " \
                 "https.#{missing} is not set. docs/https.md has the steps. " \
                 "If you want it so, set open_to_the_network_without_password: true."
  end

  # What leads from the laptop into the VM: each with a name, the setting of its port, address and port on the laptop
  # (ip, host), port in the VM (guest), and the URL. With https, the network sees that alone.
  def forwards(settings)
    domain, ip = settings["https"]["domain"], settings["host_ip"]
    settings["services"].select { |_, service| service["host_port"] }.flat_map do |name, service|
      plain_ip = domain.empty? ? ip : "127.0.0.1"
      # All addresses at once are none that Windows connects to.
      from_here = plain_ip == "0.0.0.0" ? "127.0.0.1" : plain_ip
      plain = { name: name, key: "services.#{name}.host_port", ip: plain_ip, host: service["host_port"],
                guest: service["port"], url: "http://#{from_here}:#{service['host_port']}" }
      next [plain] if domain.empty? || !service["https_port"] || !service["https_host_port"]

      port = service["https_host_port"]
      [plain, { name: "#{name}-https", key: "services.#{name}.https_host_port", ip: ip, host: port,
                guest: service["https_port"], url: "https://#{domain}:#{port}" }]
    end
  end

  # Checks one dotted key (nil: all settings) and the keys below it; `rule` is the part of SCHEMA for it.
  def check_key(key, value, rule)
    rule = resolve(rule)
    shown = value.nil? ? "empty" : value.inspect
    raise Error, "The setting #{key} is #{shown}; it must be #{rule['description']}." unless allowed?(value, rule)
    return unless value.is_a?(Hash)

    value.each do |name, inner|
      raise Error, "YAML does not take the key #{name.inspect} for a text. Put it between quotes." unless name.is_a?(String)

      inner_key = [key, name].compact.join(".")
      inner_rule = rule.fetch("properties", {})[name] || rule["additionalProperties"]
      raise Error, "The settings have an unknown key, #{inner_key}. #{suggestion(name)}" unless inner_rule

      names = rule["propertyNames"]
      unless names.nil? || fits?(name, names)
        raise Error, "The name #{name.inspect} in #{key} must be #{names['description']}."
      end

      check_key(inner_key, inner, inner_rule)
    end
  end

  # Whether a value is what a part of SCHEMA describes. What stands below the keys of a group is not looked at.
  def allowed?(value, rule)
    return rule["enum"].include?(value) if rule["enum"]

    type = { String => "string", Integer => "integer", true.class => "boolean", false.class => "boolean",
             Array => "array", Hash => "object" }[value.class]
    return false unless rule["type"] == type

    case value
    when String then fits?(value, rule)
    when Integer then value.between?(rule.fetch("minimum", value), rule.fetch("maximum", value))
    when Array then value.all? { |item| allowed?(item, rule["items"]) && whole?(item, rule["items"]) }
    else true
    end
  end

  # Whether an entry of a list has the keys that it must have, no others, and values that are allowed.
  def whole?(item, rule)
    return true unless item.is_a?(Hash)

    (rule["required"] - item.keys).empty? && item.all? { |name, value| (inner = rule["properties"][name]) && allowed?(value, inner) }
  end

  # Ruby's ^ and $ are those of a line.
  def fits?(text, rule)
    text.match?(Regexp.new(rule.fetch("pattern", "").sub(/\A\^/, "\\A").sub(/\$\z/, "\\z")))
  end

  def resolve(rule)
    rule.key?("$ref") ? SCHEMA["$defs"].fetch(rule["$ref"].delete_prefix("#/$defs/")).merge(rule) : rule
  end

  def suggestion(name)
    require "did_you_mean"
    near = DidYouMean::SpellChecker.new(dictionary: names(SCHEMA)).correct(name).first
    near ? "Did you mean #{near}?" : "The known ones are in settings.yml."
  end

  # All that a key may be called.
  def names(rule)
    own = rule.fetch("properties", {})
    own.keys + [*own.values, rule["additionalProperties"]].grep(Hash).flat_map { |inner| names(inner) }
  end
end
