require "fileutils"
require "yaml"

# The settings: settings.yml, then what `make up` found out about this machine,
# then settings.local.yml (or the file that SETTINGS_LOCAL names), each over the one before.
module Settings
  class Error < StandardError; end

  ROOT = File.expand_path("..", __dir__)
  LOCAL = ENV.fetch("SETTINGS_LOCAL", "settings.local.yml")
  FILES = ["settings.yml", ".cache/machine.yml", LOCAL].freeze

  PORT = [->(v) { v.is_a?(Integer) && v.between?(1, 65_535) }, "a port number from 1 to 65535"].freeze
  SWITCH = [->(v) { [true, false].include?(v) }, "true or false"].freeze
  ABOVE_0 = [->(v) { v.is_a?(Integer) && v.positive? }, "a number above 0"].freeze
  TEXT = [->(v) { v.is_a?(String) }, "a text"].freeze
  NAME = [->(v) { v.is_a?(String) && !v.empty? }, "a text that is not empty"].freeze
  SHA256 = [->(v) { v.to_s.match?(/\A(\h{64})?\z/) }, "empty, or the 64 digits of a SHA-256"].freeze
  MAP = [->(v) { v.is_a?(Hash) }, "a group of `key: value` lines, as in settings.yml"].freeze
  WEB = [->(v) { v == "" || v.to_s.match?(%r{\Ahttps?://[^\s/]+}) }, "empty, or an address such as http://host:port"].freeze
  INSIDE = [->(v) { v == "" || (v.is_a?(String) && File.expand_path(v, ROOT).start_with?("#{ROOT}/")) },
            "empty, or a path inside the project's folder (the VM sees nothing else)"].freeze

  # What each key accepts; [] is any name.
  RULES = {
    "vm.memory" => [->(v) { v.is_a?(Integer) && v >= 1024 }, "a number of MiB, at least 1024"],
    "vm.cpus" => [->(v) { v.is_a?(Integer) && v.between?(1, 64) }, "a number from 1 to 64"],
    "vm.box" => NAME, "vm.box_version" => TEXT, "vm.box_url" => TEXT,
    "vm.box_checksum" => SHA256,
    "libvirt.driver" => [->(v) { %w[kvm qemu].include?(v) }, "kvm or qemu"],
    "libvirt.box" => TEXT, "libvirt.box_url" => TEXT, "libvirt.box_checksum" => SHA256,
    "host_ip" => [->(v) { v.to_s.match?(/\A\d+(\.\d+){3}\z/) && v.split(".").all? { |n| n.to_i < 256 } },
                  "an IPv4 address, such as 127.0.0.1"],
    "open_to_the_network_without_password" => SWITCH,
    "data_dir" => NAME, "cache_dir" => INSIDE, "live_reload" => SWITCH,
    "user_id" => [->(v) { v.is_a?(Integer) && v.between?(1, 2**31) }, "a user id above 0 (0 is root)"],
    "services.[].enabled" => SWITCH,
    "services.[].source" => NAME, "services.[].port" => PORT, "services.[].host_port" => PORT,
    "services.[].https_port" => PORT, "services.[].https_host_port" => PORT,
    "services.[].health_path" => [->(v) { v.to_s.start_with?("/") }, "a path that starts with /"],
    "services.[].live_command" => [->(v) { v.to_s.match?(%r{\A[\w./:=-]+( [\w./:=-]+)*\z}) },
                                   "a command of plain words, such as python -m users_backend"],
    "services.[].environment" => MAP,
    "services.[].environment.[]" => [->(v) { [String, Integer].any? { |type| v.is_a?(type) } && !v.to_s.include?("\n") },
                                     "one line of text, or a number"],
    "services.[].secrets" => [->(v) { v.is_a?(Array) && v.all? { |e| e.to_s.match?(%r{\A([a-z][a-z0-9-]*/)?[A-Z][A-Z0-9_]*\z}) } },
                              "a list of variables, such as [SECRET_KEY], or [database/PGPASSWORD] for another service's"],
    "services.[].volumes" => [->(v) { v.is_a?(Array) && v.all? { |e| volume?(e) } },
                              "a list of entries with source, target (both start with /), and shared, the shared folder that source lies on"],
    "services.[].replicas" => ABOVE_0,
    "services.[].memory" => [->(v) { v.to_s.match?(/\A\d+[kmg]\z/) }, "a size such as 256m"],
    "https.domain" => [->(v) { v.is_a?(String) && v.match?(/\A[a-z0-9.-]*\z/) }, "a name in small letters, such as users.example.com"],
    "https.users_file" => INSIDE, "https.email" => TEXT, "https.acme_url" => WEB, "https.acme_ca_certificate" => INSIDE,
    "https.max_body" => ABOVE_0, "https.connections_per_second" => ABOVE_0,
    "image.base" => NAME, "image.base_archive" => INSIDE,
    "network.http_proxy" => WEB, "network.https_proxy" => WEB, "network.no_proxy" => TEXT,
    "network.ca_certificate" => INSIDE, "network.apt_mirror" => WEB, "network.pip_index_url" => WEB, "network.registry_mirror" => WEB
  }.freeze
  # A service has all of these, or none, and then only the other services reach it.
  OF_A_PORT = %w[port host_port health_path].freeze

  module_function

  # Returns the merged settings, without the services that are not enabled. Raises Error with one sentence that names
  # the file's key, the value and what is allowed.
  def load
    merged = FILES.map { |file| read(file) }.reduce { |under, over| merge(under, over) }
    check(merged)
    %w[image.base_archive network.ca_certificate https.users_file].each do |key|
      file = merged.dig(*key.split("."))
      next if file == "" || File.file?(File.join(ROOT, file))

      raise Error, "#{key} in the settings names #{file.inspect}, and there is no such file in #{ROOT}. " \
                   "Put it there, or change the setting. What is in .cache comes from `make up`."
    end
    merged.merge("services" => merged["services"].reject { |_name, service| service["enabled"] == false })
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

    check_repetition(file, text)
    settings = YAML.safe_load(text, aliases: true) || {}
    return settings if settings.is_a?(Hash)

    raise Error, "#{file} must hold `key: value` lines, as settings.yml does."
  rescue Psych::SyntaxError => e
    raise Error, "#{file} is not valid YAML at line #{e.line}: #{e.problem}. " \
                 "Compare the spaces at the start of that line with settings.yml."
  rescue Psych::DisallowedClass
    raise Error, "#{file} has a value that YAML takes for a date or for a name with a colon before it. " \
                 "Put it between quotes, as in \"2026-12-31\"."
  end

  # Of two same keys, YAML takes the last and says nothing.
  def check_repetition(file, text)
    (YAML.parse(text) || []).grep(Psych::Nodes::Mapping).each do |group|
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

  def check(settings)
    check_key(nil, settings)
    settings["services"].each do |name, service|
      missing = ["source", *(OF_A_PORT if (OF_A_PORT & service.keys).any?)] - service.keys
      raise Error, "The setting services.#{name} has no #{missing.first}." if missing.any?
      other = (service["secrets"] || []).map { |s| s.rpartition("/").first }.find { |s| s != "" && !settings["services"].key?(s) }
      raise Error, "The setting services.#{name}.secrets names the service #{other}, and there is none." if other
      variable = (service["environment"] || {}).keys.find { |key| !key.match?(/\A[A-Za-z_]\w*\z/) }
      raise Error, "The variable #{variable.inspect} in services.#{name}.environment must be letters, digits and _." if variable
      next if name.match?(/\A[a-z][a-z0-9-]*\z/)

      raise Error, "The service name #{name.inspect} must be lower-case letters, digits and hyphens."
    end
    %w[port host_port https_port https_host_port].each do |key|
      twice = settings["services"].filter_map { |_, s| s[key] }.tally.find { |_, count| count > 1 }
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
      plain = { name: name, key: "services.#{name}.host_port", ip: plain_ip, host: service["host_port"],
                guest: service["port"], url: "http://#{plain_ip}:#{service['host_port']}" }
      next [plain] if domain.empty? || !service["https_port"] || !service["https_host_port"]

      port = service["https_host_port"]
      [plain, { name: "#{name}-https", key: "services.#{name}.https_host_port", ip: ip, host: port,
                guest: service["https_port"], url: "https://#{domain}:#{port}" }]
    end
  end

  # Checks one dotted key (nil: all settings) and the keys below it.
  def check_key(key, value)
    group = key.nil? || RULES.keys.any? { |known| known.start_with?("#{rule_of(key)}.") }
    allowed, sentence = RULES.fetch(rule_of(key.to_s)) { MAP if group }
    raise Error, "The settings have an unknown key, #{key}. #{suggestion(key)}" unless allowed

    shown = value.nil? ? "empty" : value.inspect
    raise Error, "The setting #{key} is #{shown}; it must be #{sentence}." unless allowed.call(value)

    return unless group

    value.each do |name, inner|
      raise Error, "YAML does not take the key #{name.inspect} for a text. Put it between quotes." unless name.is_a?(String)

      check_key([key, name].compact.join("."), inner)
    end
  end

  def rule_of(key)
    key.sub(/\A(services)\.[^.]+/, '\1.[]').sub(/(\.environment)\..+\z/, '\1.[]')
  end

  def suggestion(key)
    require "did_you_mean"
    near = DidYouMean::SpellChecker.new(dictionary: RULES.keys.map { |k| k.split(".").last } +
                                                    RULES.keys.map { |k| k.split(".").first })
                                   .correct(key.split(".").last).first
    near ? "Did you mean #{near}?" : "The known ones are in settings.yml."
  end

  def volume?(entry)
    entry.is_a?(Hash) && (entry.keys - %w[source target shared on_each_machine]).empty? &&
      %w[source target].all? { |key| entry[key].to_s.start_with?("/") } &&
      (entry["shared"].nil? || "#{entry['source']}/".start_with?("#{entry['shared']}/"))
  end
end
